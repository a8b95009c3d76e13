"""What runs a network: the engine interface, its backends, buckets and the model library."""
