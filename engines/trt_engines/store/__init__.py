"""Built engines on disk: one folder each, named by the hash of all that decided its bytes."""
