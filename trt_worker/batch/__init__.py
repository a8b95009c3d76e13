"""Who shares an engine call: rows enter and leave between steps."""
