"""The process that owns a device: it makes pictures out of what the supervisor hands it."""
