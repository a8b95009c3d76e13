"""What runs a network: a dozen calls, over CUDA, over NumPy, and over a simulated card that is stricter than either."""
