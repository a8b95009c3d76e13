"""Which backend runs a job, and why, in words an operator can read."""
