"""The processes: the supervisor's side of a device, the device process itself, and the frames between them."""
