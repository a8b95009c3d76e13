"""Graphs without weights: exported once per network, bound to any checkpoint of it."""
