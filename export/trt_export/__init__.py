"""The one-time stage: a checkpoint becomes graphs, and graphs become engines."""

import trt_engines  # noqa: F401 - before any module here imports ONNX Runtime, whose telemetry it switches off
