"""What every architecture is, without PyTorch: its networks and their ports, its prompts, its passes. Data."""
