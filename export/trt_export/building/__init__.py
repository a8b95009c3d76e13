"""The one-time stage: checkpoints become engines."""
