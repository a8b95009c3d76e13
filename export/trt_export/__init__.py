"""The one-time stage: a checkpoint becomes graphs, and graphs become engines."""
