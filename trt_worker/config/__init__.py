"""What the operator wrote, as a value that is checked once and never changes."""
