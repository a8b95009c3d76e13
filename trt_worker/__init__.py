"""The worker: jobs come off the network, run in shared batches, and go back as paid images."""

__version__ = "0.1.0"
AGENT_NAME = "trt-worker"
