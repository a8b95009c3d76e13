"""How long a card takes: network evaluations, kernels and copies by roofline, for plans and for the simulated clock."""
