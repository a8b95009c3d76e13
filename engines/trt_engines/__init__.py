"""What runs a network: the engine interface, its backends, buckets and the model library."""

import os

# ONNX Runtime reads it once, when it is imported, and everything of ours that imports ONNX Runtime imports this package
# first. Without it the library writes an identifier and a queue of events into the user's cache and looks up the host
# that it sends them to; its own `disable_telemetry_events()` comes too late for that.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
