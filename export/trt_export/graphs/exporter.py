"""Export a network's graph without its weights: full size, in little memory, before any checkpoint is there."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch._subclasses import FakeTensorMode

from trt_engines.architectures.axis import Axis, Quantity
from trt_engines.modules.load import default_type
from trt_engines.modules.module_spec import ModuleSpec
from trt_export.child import Tell, unheard
from trt_export.graphs.examples import example_inputs
from trt_export.graphs.optimisation import optimise

OPSET = 20

UNBOUND = "unbound"
"""The external file that weights of a graph name until it is bound to a checkpoint."""

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_MOST = {Quantity.ROWS: 63, Quantity.WIDTH: 4096, Quantity.HEIGHT: 4096, Quantity.TOKENS: 4096}
"""Largest bucket of a graph. Rows stop below 64, where diffusers' UNet branches."""

_LEAST = {Quantity.ROWS: 1, Quantity.WIDTH: 128, Quantity.HEIGHT: 128, Quantity.TOKENS: 1}
"""Smallest bucket that is traced. PyTorch takes an axis of one element for a case of its own when it reasons about
strides, and from here on no level of a network has one. Graphs know no strides: they hold for smaller pictures too."""

_EXAMPLE = {Quantity.ROWS: 2, Quantity.WIDTH: 192, Quantity.HEIGHT: 128, Quantity.TOKENS: 96}
"""The bucket that is traced: all different, none of them one, so that no axis is taken for another one."""


TRACED, EXPORTED = 0.35, 0.55
"""Shares of an export that tracing and exporting take; the rest is optimising (SDXL's denoiser: 48, 81 and 16 s)."""


class GraphExportFailed(Exception):
    """A network could not be exported; the message names it and what stood in the way."""


def export_graph(
    spec: ModuleSpec, precision: str, config: Mapping[str, Any] | None = None, tell: Tell = unheard
) -> onnx.ModelProto:
    """The graph of a network, its parameters external initializers of the file `UNBOUND`.

    Args:
        precision: float32, float16 or bfloat16: the type of parameters and of real inputs and outputs.
        config: of the network; the network's full size without one.
        tell: told what is done next: tracing, exporting, optimising.

    Initializers have the names of the exported module's parameters ("model." and the library's own), shapes and types
    of the library's; those that the graph does not read are left out.

    Raises: GraphExportFailed.
    """
    spec = spec if config is None else spec.configured(config)
    program, weights = _trace(spec, precision, tell)
    model = program.model
    if constant := [name for name in model.graph.initializers if _is_buffer(name, program, weights)]:
        raise GraphExportFailed(
            f"{spec.name} reads {', '.join(constant)}: values that are no part of a checkpoint, and that nothing "
            "computes in the graph; its entry has to compute them in `forward`"
        )
    tell("optimise", TRACED + EXPORTED)
    _optimize(model, weights)
    proto: onnx.ModelProto = ir.to_proto(model)
    _forget_origin(proto)
    _name_axes(proto.graph, spec)
    return proto


def parameters(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that a graph reads."""
    return {
        tensor.name: tuple(tensor.dims)
        for tensor in graph.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def _trace(spec: ModuleSpec, precision: str, tell: Tell) -> tuple[Any, set[str]]:
    """The exporter's program and the names of everything that a checkpoint holds."""
    dtype = TYPES[precision]
    with FakeTensorMode(), default_type(dtype):
        module = spec.make(spec.config).eval()
        module.requires_grad_(False)
        # Real values of integer buffers are lost as well: what a checkpoint does not hold has to be computed.
        weights = set(module.state_dict())
        with default_type(torch.float32):
            inputs = example_inputs(spec, _EXAMPLE, dtype)
    with _quiet(), torch.no_grad():
        try:
            tell("trace", 0.0)
            exported = torch.export.export(module, inputs, dynamic_shapes=_dynamic_shapes(spec), strict=False)
            tell("export", TRACED)
            program = torch.onnx.export(
                exported,
                dynamo=True,
                optimize=False,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                opset_version=OPSET,
                verbose=False,
            )
        except (RuntimeError, ValueError, torch.onnx.OnnxExporterError) as exc:
            raise GraphExportFailed(f"{spec.name} cannot be exported in {precision}: {exc}") from exc
    return program, weights


def _dynamic_shapes(spec: ModuleSpec) -> tuple[dict[int, Any], ...]:
    """The dynamic axes of each input: one `Dim` for all axes of a name, or its multiples."""
    dims: dict[str, Any] = {}

    def dim(axis: Axis) -> Any:
        if axis.name not in dims:
            most = axis.elements(_MOST[axis.quantity]) // axis.multiple
            least = -(-max(axis.least, axis.elements(_LEAST[axis.quantity])) // axis.multiple)
            base = torch.export.Dim(axis.name, min=least, max=most)
            dims[axis.name] = base if axis.multiple == 1 else axis.multiple * base
        return dims[axis.name]

    return tuple(
        {place: dim(part) for place, part in enumerate(tensor.shape) if isinstance(part, Axis)}
        for tensor in spec.inputs
    )


def _name_axes(graph: onnx.GraphProto, spec: ModuleSpec) -> None:
    """Say what dynamic axes of inputs and outputs follow ("height/8"), in place of the tracer's symbols."""
    described = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*graph.input, *graph.output):
        for size, part in zip(value.type.tensor_type.shape.dim, described[value.name].shape, strict=True):
            if isinstance(part, Axis):
                size.dim_param = part.quantity if part.unit == 1 else f"{part.quantity}/{float(part.unit):g}"


def _is_buffer(name: str, program: Any, weights: set[str]) -> bool:
    """Whether an initializer is a module's value that no checkpoint holds and tracing has lost."""
    value = program.model.graph.initializers[name].const_value
    return name not in weights and value is not None and "Fake" in type(getattr(value, "raw", value)).__name__


def _optimize(model: ir.Model, weights: set[str]) -> None:
    """Fold and simplify the graph without touching weights, and leave them as references."""
    graph = model.graph
    held = {name: value for name, value in graph.initializers.items() if name in weights}
    for name, value in held.items():
        # As inputs, weights have no values: nothing is folded into them and no two of them are taken for one.
        value.const_value = None
        del graph.initializers[name]
        graph.inputs.append(value)
    optimise(model)
    for value in held.values():
        graph.inputs.remove(value)
        if value.uses():
            value.const_value = _reference(value)
            graph.register_initializer(value)


def _reference(value: ir.Value) -> ir.ExternalTensor:
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or value.name is None:
        raise GraphExportFailed(f"the weight {value.name} has no shape or type in the exported graph")
    sizes = [int(size) for size in shape.numpy()]
    length = math.prod(sizes) * dtype.itemsize
    return ir.ExternalTensor(
        location=UNBOUND, offset=0, length=int(length), dtype=dtype, shape=shape, name=value.name, base_dir="."
    )


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces and shapes that outweigh the graph and name the machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *proto.functions):
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    del graph.value_info[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's warnings are about its own working, and about packages that no network needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
