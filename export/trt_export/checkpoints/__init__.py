"""Checkpoints as they are published: where each weight of a network lies in their files."""
