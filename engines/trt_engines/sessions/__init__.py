"""Engines that are loaded: one interface over TensorRT, TensorRT-RTX, and ONNX Runtime on devices that need no card."""
