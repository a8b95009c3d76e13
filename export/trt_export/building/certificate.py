"""How the numbers of a bound graph compare with PyTorch's: measured before an engine of it may be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from polygraphy.backend.onnxrt import OnnxrtRunner
from scipy import ndimage
from torch import nn
from torch.overrides import TorchFunctionMode

from trt_engines.architectures.axis import sizes_of
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.bound_weights import BoundTensor, float32_values
from trt_engines.bucket import Bucket
from trt_engines.module_loading import WithoutValues, named_tensors
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.store.manifest import Certificate
from trt_export.child import Tell
from trt_export.graphs.widening import widen

PSNR_LEAST = 35.0
"""dB, of an output's range: below, a picture is visibly another one (the rule of thumb of cache-dit)."""

SSIM_LEAST = 0.9
"""From the same rule."""

SEED = 20_240


def certify(
    spec: ModuleSpec,
    graph: Path,
    weights: Sequence[BoundTensor],
    buckets: Sequence[Bucket],
    timesteps: float,
    tell: Tell,
) -> Certificate:
    """Compute buckets by ONNX Runtime on the graph that was built, and by PyTorch in float32 with the same weights.

    Args:
        graph: bound, its external files beside it.
        timesteps: the network's time runs from 0 to this.

    bfloat16 is computed in float32 with the same weights, for ONNX Runtime's processor kernels lack it. One of the two
    networks is in memory at a time: the results of the first wait for those of the second.
    """
    inputs = {bucket: seeded_inputs(spec, bucket, timesteps) for bucket in buckets}
    expected = {}
    reference = Reference(spec, weights)
    for number, bucket in enumerate(buckets):
        expected[bucket] = reference.outputs(list(inputs[bucket].values()))
        tell("certify", (number + 1) / len(buckets) / 2)
    del reference
    checked = {}
    with OnnxrtRunner(_session(graph)) as runner:
        metadata = runner.get_input_metadata(use_numpy_dtypes=False)
        types = {name: entry.dtype.numpy() for name, entry in metadata.items()}
        for number, bucket in enumerate(buckets):
            given = runner.infer({name: inputs[bucket][name].astype(dtype) for name, dtype in types.items()})
            checked[bucket.label] = compare(list(given.values()), expected.pop(bucket))
            tell("certify", (1 + (number + 1) / len(buckets)) / 2)
    return Certificate(
        verdict="passed" if all(map(good, checked.values())) else "failed",
        figures={"computed_by": "onnxruntime", "buckets": checked},
    )


def good(figures: Mapping[str, float]) -> bool:
    """Whether a bucket's figures, as `compare` gives them, are those of a faithful engine."""
    return figures["not_finite"] == 0 and figures["psnr"] >= PSNR_LEAST and figures["ssim"] >= SSIM_LEAST


def compare(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, float]:
    """The worst over all outputs of a network.

    Returns: max_abs; psnr in dB of the reference's range; ssim over the last two axes (1 where an output has fewer
        than four); not_finite, the number of values that are NaN or infinite.
    """
    worst = {"max_abs": 0.0, "psnr": 200.0, "ssim": 1.0, "not_finite": 0.0}
    for one, other in zip(results, expected, strict=True):
        result, reference = one.astype(np.float64), other.astype(np.float64)
        worst["not_finite"] += float(np.count_nonzero(~np.isfinite(result)))
        result = np.nan_to_num(result, posinf=0.0, neginf=0.0)
        difference = result - reference
        span = float(np.ptp(reference)) or 1.0
        error = float(np.mean(difference**2))
        psnr = 10 * float(np.log10(span**2 / error)) if error else 200.0
        worst["max_abs"] = max(worst["max_abs"], float(np.abs(difference).max()))
        worst["psnr"] = min(worst["psnr"], round(psnr, 2))
        if reference.ndim == 4:
            worst["ssim"] = min(worst["ssim"], round(_ssim(result, reference, span), 5))
    return worst


def seeded_inputs(spec: ModuleSpec, bucket: Bucket, timesteps: float) -> dict[str, np.ndarray]:
    """Inputs of a bucket, the same at every call: noise for real values, token numbers, all of a mask but its end.

    Times, and what else is float32 at any precision, part 0 to `timesteps` evenly, a time for each row.
    """
    generator = np.random.default_rng(SEED)

    def values(tensor: Tensor) -> np.ndarray:
        shape = tensor.at(sizes_of(bucket))
        match tensor.kind:
            case Kind.INT64:
                return generator.integers(0, 1000, shape)
            case Kind.BOOL:
                mask = np.ones(shape, np.bool_)
                mask[-1, -2:] = False
                return mask
            case Kind.FLOAT32:
                times = timesteps * np.arange(1, shape[0] + 1, dtype=np.float32) / (shape[0] + 1)
                return np.broadcast_to(times.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
            case Kind.REAL:
                return generator.standard_normal(shape, np.float32)

    return {tensor.name: values(tensor) for tensor in spec.inputs}


def _ssim(one: np.ndarray, other: np.ndarray, span: float) -> float:
    """Structural similarity with a Gaussian window of sigma 1.5 (Wang et al., 2004), over the last two axes."""
    sigma = (0.0,) * (one.ndim - 2) + (1.5, 1.5)

    def blurred(values: np.ndarray) -> np.ndarray:
        result: np.ndarray = ndimage.gaussian_filter(values, sigma, truncate=3.5)
        return result

    mean_one, mean_other = blurred(one), blurred(other)
    variance_one = blurred(one**2) - mean_one**2
    variance_other = blurred(other**2) - mean_other**2
    covariance = blurred(one * other) - mean_one * mean_other
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    similarity = ((2 * mean_one * mean_other + c1) * (2 * covariance + c2)) / (
        (mean_one**2 + mean_other**2 + c1) * (variance_one + variance_other + c2)
    )
    return float(similarity.mean())


class Reference(TorchFunctionMode):
    """PyTorch's network in float32 with bound weights, which are read where they are used, and dropped.

    While this mode is on, whatever takes a parameter on the meta device gets its values. Weights that the graph does
    not read are zero: what comes out does not depend on them.
    """

    def __init__(self, spec: ModuleSpec, weights: Sequence[BoundTensor]) -> None:
        """Raises: ValueError: the network has no place for a weight, or a buffer has no values."""
        super().__init__()
        with WithoutValues():
            self.module = spec.make(spec.config).eval().requires_grad_(False)
        bound = {one.name: one for one in weights}
        self._weights: dict[int, BoundTensor] = {}
        for name, tensor in named_tensors(self.module):
            weight = bound.pop(name, None)
            if tensor.is_meta and not isinstance(tensor, nn.Parameter):
                raise ValueError(f"{spec.name}: nothing gives the buffer {name} its values")
            if weight is None:
                continue
            if tensor.is_meta:
                self._weights[id(tensor)] = weight
            else:
                tensor.copy_(torch.from_numpy(float32_values(weight)))
        if bound:
            raise ValueError(f"{spec.name}: PyTorch's network has no weights {', '.join(bound)}")

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the network computes."""
        with self, torch.inference_mode():
            given = self.module(*map(torch.from_numpy, inputs))
            return [one.numpy() for one in (given if isinstance(given, tuple) else (given,))]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.device.__get__:
            return torch.device("cpu")
        if func in _OF_THE_SHAPE:
            return func(*args, **(kwargs or {}))
        named = {name: self._read(value) for name, value in (kwargs or {}).items()}
        return func(*(self._read(value) for value in args), **named)

    def _read(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(one, nn.Parameter) for one in value):
            return type(value)(map(self._read, value))
        if not isinstance(value, nn.Parameter) or not value.is_meta:
            return value
        weight = self._weights.get(id(value))
        return torch.zeros(value.shape) if weight is None else torch.from_numpy(float32_values(weight))


_OF_THE_SHAPE = frozenset(
    {torch.Tensor.shape.__get__, torch.Tensor.dtype.__get__, torch.Tensor.ndim.__get__, torch.Tensor.size}
)
"""What needs no values of a tensor."""


def _session(graph: Path) -> onnxruntime.InferenceSession:
    """The graph with its weights mapped into memory: ONNX Runtime follows no links out of a graph's folder.

    Nothing is optimised: that would make float32 copies of all weights, and takes longer than computing the samples.
    """
    model = onnx.load(graph, load_external_data=False)
    names, values = [], []
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            names.append(tensor.name)
            values.append(_mapped(tensor, graph.parent))
    widen(model, {TensorProto.BFLOAT16})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _mapped(tensor: TensorProto, folder: Path) -> Any:
    """A weight as it lies in its file; a session makes a copy of its own."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(place["offset"]), int(place["length"])
    raw = np.memmap(folder / place["location"], np.uint8, "r", offset, (length,))
    unknown: dict[int, Any] = {TensorProto.BFLOAT16: np.uint16, TensorProto.FLOAT8E4M3FN: np.uint8}  # to NumPy
    if tensor.data_type in unknown:
        values = raw.view(unknown[tensor.data_type]).reshape(tuple(tensor.dims))
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(values, tensor.data_type)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return onnxruntime.OrtValue.ortvalue_from_numpy(raw.view(dtype).reshape(tuple(tensor.dims)))
