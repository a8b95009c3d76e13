"""Latents to pixels."""
