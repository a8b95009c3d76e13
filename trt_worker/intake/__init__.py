"""Off the wire: what the networks send becomes `JobSpec`, and nothing past this folder knows which network it was."""
