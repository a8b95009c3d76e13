"""The Horde's HTTP protocol, version 2: aihorde.net and private hordes. The AI Power Grid itself has retired it."""
