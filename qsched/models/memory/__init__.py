"""What fits into the memory there is, and what moves when it does not."""
