"""What one session looks at: three columns, and a record of them."""
