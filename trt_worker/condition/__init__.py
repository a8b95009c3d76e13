"""Prompts and source images to what the networks are given: text context and normalised pixels."""
