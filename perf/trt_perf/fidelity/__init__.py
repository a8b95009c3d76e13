"""Whether an added model draws what diffusers' modules draw: small random models, the whole way and a plain loop."""
