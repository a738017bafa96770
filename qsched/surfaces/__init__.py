"""Loss surfaces, their noise and their stability."""
