"""Compilers of graphs: TensorRT-RTX and TensorRT behind one interface."""
