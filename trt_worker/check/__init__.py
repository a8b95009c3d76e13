"""What must never leave the worker."""
