"""Every architecture that can be exported, one declarative entry each."""
