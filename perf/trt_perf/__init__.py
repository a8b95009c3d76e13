"""Benchmarks: what the worker is measured by, each figure printed by one command."""
