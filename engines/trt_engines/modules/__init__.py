"""Every network as a PyTorch module over the library's own: what is exported, and what the PyTorch backend runs."""
