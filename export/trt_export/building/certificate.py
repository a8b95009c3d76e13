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

from trt_engines.bucket import Bucket
from trt_engines.store.manifest import Certificate
from trt_export.architectures.architecture import ComponentSpec, Kind, Tensor
from trt_export.building.order import sizes_of
from trt_export.checkpoints.binding import BoundTensor
from trt_export.child import Tell

PSNR_LEAST = 35.0
"""dB, of an output's range: below, a picture is visibly another one (the rule of thumb of cache-dit)."""

SSIM_LEAST = 0.9
"""From the same rule."""

SEED = 20_240

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}


def certify(
    component: ComponentSpec,
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
    inputs = {bucket: seeded_inputs(component, bucket, timesteps) for bucket in buckets}
    expected = {}
    reference = reference_module(component, weights)
    for number, bucket in enumerate(buckets):
        with torch.inference_mode():
            given = reference(*(torch.from_numpy(value) for value in inputs[bucket].values()))
        expected[bucket] = [one.numpy() for one in (given if isinstance(given, tuple) else (given,))]
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


def seeded_inputs(component: ComponentSpec, bucket: Bucket, timesteps: float) -> dict[str, np.ndarray]:
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

    return {tensor.name: values(tensor) for tensor in component.inputs}


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


class _WithoutValues(TorchFunctionMode):
    """What is made with torch.empty, as weights are, lies on the meta device: it takes no memory, filling it no time.

    Values that modules compute for themselves (positions, angles, statistics) are made in other ways, and real.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def reference_module(component: ComponentSpec, weights: Sequence[BoundTensor]) -> nn.Module:
    """PyTorch's network with the bound weights in float32, and no others in memory.

    Weights that the graph does not read are zero: what comes out does not depend on them.

    Raises: ValueError: it has no place for a bound weight, or a buffer without values.
    """
    with _WithoutValues():
        module = component.make(component.config).eval()
    bound = {one.name: one for one in weights}
    places = _places(module)
    known = {name for held in places for name, *_ in held}
    if unknown := [name for name in bound if name not in known]:
        raise ValueError(f"{component.name}: PyTorch's network has no weights {', '.join(unknown)}")
    for held in places:
        weight = next((bound[name] for name, *_ in held if name in bound), None)
        name, owner, attribute = held[0]
        old: torch.Tensor = getattr(owner, attribute)
        if weight is None and not old.is_meta:
            continue
        if weight is None and not isinstance(old, nn.Parameter):
            raise ValueError(f"{component.name}: nothing gives the buffer {name} its values")
        values = torch.zeros(old.shape) if weight is None else torch.from_numpy(float32_values(weight))
        if isinstance(old, nn.Parameter):
            values = nn.Parameter(values, requires_grad=False)
        for _, owner, attribute in held:
            setattr(owner, attribute, values)
    return module


def _places(module: nn.Module) -> list[list[tuple[str, nn.Module, str]]]:
    """Every parameter and buffer: its name, the module that has it and as which attribute; once for each tied place."""
    found: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        own = (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
        for attribute, values in own:
            found.setdefault(id(values), []).append((f"{path}.{attribute}" if path else attribute, owner, attribute))
    return list(found.values())


def float32_values(weight: BoundTensor) -> np.ndarray:
    """The values of a bound weight, computed as its graph does: float32 in the library's shape."""
    joined = np.concatenate(
        [np.fromfile(piece.file, np.uint8, piece.length, offset=piece.offset) for piece in weight.pieces]
    )
    if weight.dtype == "BF16":
        values = _from_bfloat16(joined)
    elif weight.dtype == "F8_E4M3":
        float8: Any = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
        values = joined.view(float8).astype(np.float32)
    else:
        values = joined.view(_DTYPES[weight.dtype]).astype(np.float32)
    if weight.scale is not None:
        values = values * np.fromfile(weight.scale.file, np.float32, 1, offset=weight.scale.offset)
    return values.reshape(weight.shape)


def _from_bfloat16(raw: np.ndarray) -> np.ndarray:
    """Bytes of bfloat16 values, the upper halves of float32 ones, as float32."""
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _session(graph: Path) -> onnxruntime.InferenceSession:
    """The graph with its weights mapped into memory: ONNX Runtime follows no links out of a graph's folder."""
    model = onnx.load(graph, load_external_data=False)
    names, values = [], []
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            names.append(tensor.name)
            values.append(_mapped(tensor, graph.parent))
    _widen(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _mapped(tensor: TensorProto, folder: Path) -> Any:
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(place["offset"]), int(place["length"])
    raw = np.memmap(folder / place["location"], np.uint8, "r", offset, (length,))
    if tensor.data_type == TensorProto.BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(_from_bfloat16(raw).reshape(tuple(tensor.dims)))
    if tensor.data_type == TensorProto.FLOAT8E4M3FN:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            np.array(raw).reshape(tuple(tensor.dims)), tensor.data_type
        )
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.array(raw.view(dtype)).reshape(tuple(tensor.dims)))


def _widen(model: onnx.ModelProto) -> None:
    """Turn bfloat16 into float32 throughout."""

    def widen_tensor(tensor: TensorProto) -> None:
        if tensor.data_type != TensorProto.BFLOAT16:
            return
        if tensor.data_location != TensorProto.EXTERNAL:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        tensor.data_type = TensorProto.FLOAT

    for tensor in model.graph.initializer:
        widen_tensor(tensor)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                widen_tensor(attribute.t)
