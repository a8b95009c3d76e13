"""One file per way to run a network; each imports its library only when it loads an engine."""
