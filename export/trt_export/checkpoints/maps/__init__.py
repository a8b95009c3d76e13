"""Tables of names: one per published layout and network."""
