"""What this rig has and what of it works: facts only, each fault with the one command that mends it."""
