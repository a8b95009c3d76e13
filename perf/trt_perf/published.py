"""Speeds that others published, as the cost model is fitted on and checked against: every row with its source.

A row says how fast some software ran on some card; what that software did (arithmetic, launches, fusion) is ours to
tell, by its own documentation. GeForce speeds of onediff, stable-fast and AITemplate, and of TensorRT 9, are above what
float32 sums allow or come with a switch for float16 sums that is on by default, so they are taken to sum in float16;
so is eight-bit work on GeForce cards. `EXCLUDED` holds the rows that are left out, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trt_engines.costs.hardware import Arithmetic, hardware
from trt_engines.costs.roofline import CONSTANTS, Constants, Launch, evaluation_seconds
from trt_engines.costs.work import SDXL, STABLE_DIFFUSION_1, VAE_DECODER, NetworkWork, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What runs the networks."""

    launch: Launch
    slowness: float = 1.0  # of its kernels, against those of the other compilers


EAGER = Software(launch=Launch.EAGER)
COMPILED = Software(launch=Launch.COMPILED)
GRAPH = Software(launch=Launch.GRAPH)
AITEMPLATE = Software(launch=Launch.GRAPH, slowness=1.399)
"""The oldest of the compilers (2022), with kernel templates of its own; its slowness is fitted with the constants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One published figure: seconds of a denoising step, of a whole picture, or a gain by batching."""

    name: str  # card, model and size, software: the order of names decides which half a row belongs to
    card: str
    network: NetworkWork
    width: int  # pixels
    height: int
    images: int  # of one call
    software: Software
    arithmetic: Arithmetic
    value: float  # seconds; of a gain, images a second over those of one image at a time
    source: str
    steps: int = 1  # that the seconds cover
    decoded: bool = False  # whether decoding is in the seconds
    gain: bool = False
    rows_per_image: int = 2  # with guidance, unless that is a call of its own
    unfused_attention: bool = False  # scores of attention go through memory

    def predicted(self, constants: Constants = CONSTANTS, aitemplate: float = AITEMPLATE.slowness) -> float:
        """What the model says in place of `value`. Args: aitemplate: slowness of AITemplate's kernels."""
        if self.gain:
            return self._call(1, constants) * self.images / self._call(self.images, constants)
        seconds = self.steps * self._call(self.images, constants)
        if self.decoded:
            decoding = VAE_DECODER.work(rows=self.images, width=self.width, height=self.height, fused=self._fused)
            seconds += self._seconds(decoding, self._decoding_arithmetic, constants)
        return seconds * (aitemplate if self.software == AITEMPLATE else 1.0)

    @property
    def _fused(self) -> bool:
        return self.software.launch is not Launch.EAGER

    @property
    def _decoding_arithmetic(self) -> Arithmetic:
        """Nobody decodes in eight bits with tensors of eight bits throughout."""
        return Arithmetic.FLOAT16_SUMS if self.arithmetic is Arithmetic.EIGHT_BITS else self.arithmetic

    def _call(self, images: int, constants: Constants) -> float:
        work = self.network.work(
            rows=self.rows_per_image * images, width=self.width, height=self.height, fused=self._fused
        )
        if self.unfused_attention:
            work = _with_scores(work, self.rows_per_image * images * (self.width * self.height / 64) ** 2)
        return self._seconds(work, self.arithmetic, constants)

    def _seconds(self, work: Work, arithmetic: Arithmetic, constants: Constants) -> float:
        return evaluation_seconds(work, hardware(self.card), arithmetic, self.software.launch, constants)


def _with_scores(work: Work, rows_cells_squared: float) -> Work:
    """SDXL's work where scores of self-attention are written, normalised (read, written) and read again.

    Scores per row: 10 attentions of 10 heads at a quarter of the cells, 60 of 20 heads at a sixteenth.
    """
    values = (10 * 10 / 4**2 + 60 * 20 / 16**2) * rows_cells_squared
    return Work(
        flops=work.flops,
        weight_bytes=work.weight_bytes,
        activation_bytes=work.activation_bytes + 4 * 2 * values,
        kernels=work.kernels,
        operations=work.operations,
    )


QWEN_IMAGE = NetworkWork(
    name="qwen_image denoiser",
    cell=16,
    parameters=20_430_401_088,
    fixed=500e9,  # modulations, and a prompt of some 30 tokens through its own half of the weights
    per_cell=13.6e9,
    per_cell_squared=737_280.0,
    bytes_per_cell=9_610_000.0,
    kernels=1147,
    unfused_bytes_per_cell=41_470_000.0,
    operations=5559,
)
"""Counted as `trt_export.measuring.traffic` counts, on the module of diffusers 0.42; no engine of ours runs it.

There the two guidance rows are calls of their own, so a call has as many rows as images.
"""

_S4 = "stable-fast README"
_ONEDIFF = "onediff README"
_AIT = "AITemplate, examples/05_stable_diffusion"
_63 = "stable-fast, issue 63"
_MODELOPT = "TensorRT Model Optimizer, benchmark.md"
_FAST = "PyTorch blog, Accelerating generative AI part III"
_MLPERF = "MLPerf Inference, closed division, mlperf_log_summary.txt"
_SGLANG = "sglang, pull request 22183"


def _per_second(speed: float) -> float:
    return 1.0 / speed


def _stable_diffusion() -> Iterator[Speed]:
    """Stable Diffusion 1.5 at 512x512 with guidance: steps a second."""
    f32, f16, sums = Arithmetic.FLOAT32, Arithmetic.FLOAT16, Arithmetic.FLOAT16_SUMS
    rows = (
        ("GTX 1660 Super", "A1111 PyTorch", EAGER, f32, 1.73, "andreszsogon.com/?p=2954"),
        ("RTX 3090", "PyTorch", EAGER, f16, 21.25, _ONEDIFF),
        ("RTX 3090", "onediff", GRAPH, sums, 46.34, _ONEDIFF),
        ("RTX 4080", "AITemplate", AITEMPLATE, sums, 44.2, _S4),
        ("RTX 4080", "OneFlow", GRAPH, sums, 53.6, _S4),
        ("RTX 4080", "PyTorch", EAGER, f16, 29.5, _S4),
        ("RTX 4080", "TensorRT", GRAPH, sums, 52.6, _S4),
        ("RTX 4080", "TensorRT in WebUI", COMPILED, sums, 40.8, _S4),
        ("RTX 4080", "stable-fast", GRAPH, sums, 51.6, _S4),
        ("RTX 4080", "torch.compile", COMPILED, f16, 40.0, _S4),
        ("RTX 4090", "PyTorch", EAGER, f16, 38.32, _ONEDIFF),
        ("RTX 4090", "onediff", GRAPH, sums, 91.0, _ONEDIFF),
        ("A100 80GB", "AITemplate", AITEMPLATE, f16, 42.45, _AIT),
        ("A100 80GB", "stable-fast", GRAPH, f16, 61.8, _S4),
        ("H100", "PyTorch", EAGER, f16, 54.5, _S4),
        ("H100", "stable-fast", GRAPH, f16, 104.6, _S4),
        ("H100", "torch.compile", COMPILED, f16, 66.0, _S4),
    )
    for card, software_name, software, arithmetic, speed, source in rows:
        yield Speed(
            name=f"{card}, SD 1.5 512, {software_name}",
            card=card,
            network=STABLE_DIFFUSION_1,
            width=512,
            height=512,
            images=1,
            software=software,
            arithmetic=arithmetic,
            value=_per_second(speed),
            source=source,
        )
    batches = ((3, 3 / 42.45 / 1.23), (8, 7.49 / 50), (16, 16 / 42.45 / 1.37))  # seconds of a step
    for images, seconds in batches:
        yield Speed(
            name=f"A100 80GB, SD 1.5 512, AITemplate, batch {images:02}",
            card="A100 80GB",
            network=STABLE_DIFFUSION_1,
            width=512,
            height=512,
            images=images,
            software=AITEMPLATE,
            arithmetic=f16,
            value=seconds,
            source=_AIT,
        )


def _sdxl_steps() -> Iterator[Speed]:
    """SDXL with guidance: seconds of a step."""
    f16, sums = Arithmetic.FLOAT16, Arithmetic.FLOAT16_SUMS
    rows = (
        ("RTX 3060", "ComfyUI, batch 4", (832, 1216), 4, EAGER, f16, 2.78, _63),
        ("RTX 3060", "stable-fast, batch 4", (832, 1216), 4, GRAPH, sums, 1.85, _63),
        ("RTX 4060 Ti 16GB", "stable-fast, batch 4", (832, 1216), 4, GRAPH, sums, 1.28, _63),
        ("RTX 3090", "PyTorch", (1024, 1024), 1, EAGER, f16, _per_second(3.97), _ONEDIFF),
        ("RTX 3090", "TensorRT 9 in WebUI", (1024, 1024), 1, COMPILED, sums, _per_second(6.40), _ONEDIFF),
        ("RTX 3090", "onediff", (1024, 1024), 1, GRAPH, sums, _per_second(6.91), _ONEDIFF),
        ("RTX 4080", "stable-fast", (1024, 1024), 1, GRAPH, sums, _per_second(9.1), _S4),
        ("RTX 4090", "PyTorch", (1024, 1024), 1, EAGER, f16, _per_second(8.44), _ONEDIFF),
        ("RTX 4090", "onediff", (1024, 1024), 1, GRAPH, sums, _per_second(14.77), _ONEDIFF),
        ("A100 80GB", "stable-fast", (1024, 1024), 1, GRAPH, f16, _per_second(11.9), _S4),
        ("H100", "stable-fast", (1024, 1024), 1, GRAPH, f16, _per_second(21.6), _S4),
    )
    for card, software_name, (width, height), images, software, arithmetic, seconds, source in rows:
        yield Speed(
            name=f"{card}, SDXL {width}x{height}, {software_name}",
            card=card,
            network=SDXL,
            width=width,
            height=height,
            images=images,
            software=software,
            arithmetic=arithmetic,
            value=seconds,
            source=source,
        )


def _sdxl_pictures() -> Iterator[Speed]:
    """SDXL at 1024x1024 with guidance: seconds of pictures, decoding included."""
    sums, eight = Arithmetic.FLOAT16_SUMS, Arithmetic.EIGHT_BITS
    rows = (
        ("RTX 4090", "TensorRT 9.3 float16", 1, 30, GRAPH, sums, 2.47, _MODELOPT),
        ("RTX 4090", "TensorRT 9.3 float8", 1, 30, GRAPH, eight, 2.161, _MODELOPT),
        ("RTX 4090", "TensorRT 9.3 int8", 1, 30, GRAPH, eight, 2.058, _MODELOPT),
        ("L40S", "TensorRT 9.3 float8", 1, 30, GRAPH, eight, 2.168, _MODELOPT),
        ("RTX 6000 Ada", "TensorRT 9.3 int8", 1, 30, GRAPH, eight, 2.479, _MODELOPT),
        ("A100 80GB", "diffusion-fast", 1, 30, GRAPH, Arithmetic.FLOAT16, 2.5, _FAST),
        ("B200", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 4.07, _MLPERF),
        ("B200", "MLPerf 5.1 server", 8, 20, GRAPH, eight, 8 / 3.56, _MLPERF),
        ("H200", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 2.40, _MLPERF),
        ("H200", "MLPerf 5.1 server", 8, 20, GRAPH, eight, 8 / 2.3025, _MLPERF),
        ("H200 NVL", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 2.14, _MLPERF),
        ("H100", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 2.26, _MLPERF),
        ("H100", "MLPerf 5.1 server", 8, 20, GRAPH, eight, 8 / 2.23, _MLPERF),
        ("H100", "MLPerf 4.1 offline", 32, 20, GRAPH, eight, 32 / 2.04, _MLPERF),
        ("H100 PCIe", "MLPerf 4.1 offline", 32, 20, GRAPH, eight, 32 / 1.24, _MLPERF),
        ("RTX PRO 6000", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 1.38, _MLPERF),
        ("L40S", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 0.69, _MLPERF),
        ("L4", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 0.252, _MLPERF),
        ("RTX 2000E Ada", "MLPerf 5.1 offline", 32, 20, GRAPH, eight, 32 / 0.133, _MLPERF),
    )
    for card, software_name, images, steps, software, arithmetic, seconds, source in rows:
        yield Speed(
            name=f"{card}, SDXL 1024x1024, {software_name}",
            card=card,
            network=SDXL,
            width=1024,
            height=1024,
            images=images,
            software=software,
            arithmetic=arithmetic,
            value=seconds,
            steps=steps,
            decoded=True,
            source=source,
        )
    yield Speed(
        name="A100 80GB, SDXL 1024x1024, PyTorch float32",
        card="A100 80GB",
        network=SDXL,
        width=1024,
        height=1024,
        images=1,
        software=EAGER,
        arithmetic=Arithmetic.TENSOR_FLOAT32,  # without it, 405 TFLOP at 19.5 TFLOP/s alone would take 21 s
        value=7.36,
        steps=30,
        decoded=True,
        unfused_attention=True,
        source=_FAST,
    )


def _gains() -> Iterator[Speed]:
    """Qwen-Image: images a second in a batch over one at a time."""
    for side, images, gain in ((512, 4, 2.77), (512, 8, 3.14), (512, 16, 3.2), (1024, 2, 1.02)):
        yield Speed(
            name=f"H200, Qwen-Image {side}, sglang, gain of batch {images:02}",
            card="H200",
            network=QWEN_IMAGE,
            width=side,
            height=side,
            images=images,
            software=COMPILED,
            arithmetic=Arithmetic.FLOAT16,
            value=gain,
            gain=True,
            rows_per_image=1,
            source=_SGLANG,
        )


PUBLISHED: tuple[Speed, ...] = tuple(
    sorted((*_stable_diffusion(), *_sdxl_steps(), *_sdxl_pictures(), *_gains()), key=lambda speed: speed.name)
)
"""Every row that says what was run well enough to compute it, in the order of names."""

EXCLUDED: dict[str, str] = {
    "StreamDiffusion SD-turbo on an RTX 4090, 106 images/s": "one evaluation without guidance and another decoder; its"
    " own table marks it as not comparable",
    "ONNX Runtime CUDA with IO binding on an H100, 572 ms": "the number of steps is not stated",
    "H200, MLPerf open division, LCM, 10.79 images/s": "a distilled model; marked as not comparable",
    "MI325X, MLPerf, 2.32 images/s": "not an NVIDIA card: no row of the card tables, no engine of ours",
    "vllm-omni, pictures of different sizes packed into one call": "neither the model nor the sizes of its prompts are"
    " stated, and our engines do not pack",
    "vllm-omni on Ascend": "not an NVIDIA card, and no figure",
    "B200, MLPerf, server against offline, 1.14x": "the quotient of two rows that are here",
    "TensorRT-RTX documentation on small batches": "no figure",
}
