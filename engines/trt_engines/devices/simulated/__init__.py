"""A card that is not there: it computes on the host, keeps a clock of its own, and forgives nothing."""
