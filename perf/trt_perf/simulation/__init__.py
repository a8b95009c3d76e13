"""A day of a rig in seconds: the worker's own scheduling on the simulated clock of a card."""
