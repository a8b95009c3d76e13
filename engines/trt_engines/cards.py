"""Graphics cards: compute capability, memory, peak rates, and which library builds engines for them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from trt_engines.errors import EngineError

GIB = 2**30

RTX_TARGETS = frozenset({75, 80, 86, 89, 120, 121})
"""Compute capabilities that TensorRT-RTX builds for, on any machine: its `ComputeCapability` enum, 1.7."""

TENSORRT_LOWEST, TENSORRT_HIGHEST = 75, 121
"""Compute capabilities that TensorRT 11 builds for, on a machine that holds such a card (Volta left with 10.5)."""


class UnknownCard(EngineError):
    """No card or compute capability goes by this name; the message lists the closest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A graphics card as its vendor specifies it: dense peaks at the listed boost clock."""

    name: str
    sm: int  # compute capability times ten: 86
    memory_bytes: int
    bandwidth: float  # bytes a second
    fp32_tflops: float  # outside of tensor cores
    fp16_tflops: float  # with float32 accumulation
    tensor_cores: bool

    @property
    def bf16_tflops(self) -> float | None:
        """bfloat16 runs at the rate of float16 from SM80; None below."""
        return self.fp16_tflops if self.sm >= 80 else None

    @property
    def precisions(self) -> frozenset[str]:
        """Types that engines for this card compute in."""
        return precisions(self.sm)

    @property
    def builders(self) -> tuple[str, ...]:
        """Libraries that build engines for it, the preferred one first; empty where none does."""
        return builders(self.sm)

    @property
    def unsupported(self) -> str | None:
        """Why no engine can be built for it, in an operator's words; None: one can."""
        return unsupported(self.sm)


def precisions(sm: int) -> frozenset[str]:
    """Types that engines for a compute capability compute in.

    Source: support matrices of TensorRT 11 and TensorRT-RTX: bfloat16 from SM80, float8 from SM89, float4 from SM120
    (and on SM100); Turing computes in float32 and float16 alone.
    """
    if unsupported(sm):
        return frozenset()
    names = {"float32", "float16"}
    if sm >= 80:
        names.add("bfloat16")
    if sm >= 89:
        names.add("float8")
    if sm >= 100:
        names.add("float4")
    return frozenset(names)


def builders(sm: int) -> tuple[str, ...]:
    """Libraries that build engines for a compute capability, the preferred one first."""
    if unsupported(sm):
        return ()
    return ("tensorrt-rtx", "tensorrt") if sm in RTX_TARGETS else ("tensorrt",)


def unsupported(sm: int) -> str | None:
    """Why no engine can be built for a compute capability; None: one can."""
    if sm < TENSORRT_LOWEST:
        generation = "Volta" if sm in {70, 72} else "Pascal" if sm in {60, 61, 62} else "this generation"
        return (
            f"SM{sm} ({generation}) is older than Turing, and both TensorRT and TensorRT-RTX start there (SM75); "
            "the PyTorch fallback runs it where the installed PyTorch still has kernels for it"
        )
    if sm > TENSORRT_HIGHEST:
        return f"SM{sm} is newer than what TensorRT and TensorRT-RTX build for (SM{TENSORRT_HIGHEST}); update them"
    return None


def compute_capability(text: str) -> int:
    """Compute capability times ten of "SM86", "sm_86", "8.6", "86" or the name of a card.

    Raises: UnknownCard.
    """
    plain = text.strip().lower()
    if found := re.fullmatch(r"(?:sm_?)?(\d{1,2})\.(\d)", plain):
        sm = int(found[1]) * 10 + int(found[2])
    elif found := re.fullmatch(r"(?:sm_?|compute_)(\d{2,3})a?|(\d{2})|(1[0-2]\d)", plain):
        sm = int(found[1] or found[2] or found[3])
    else:
        return card(text).sm
    if sm not in _CAPABILITIES:
        known = ", ".join(f"SM{one}" for one in sorted(_CAPABILITIES))
        raise UnknownCard(f"{text!r} is no compute capability of an NVIDIA card; there are {known}")
    return sm


def card(name: str) -> Card:
    """The card of a name, as nvidia-smi reports it or as people write it: "RTX 3060", "NVIDIA GeForce RTX 4090".

    A memory size in the name selects a variant, or else replaces the listed size (a card with more memory soldered on).

    Raises: UnknownCard.
    """
    key, gigabytes = _key(name)
    for prefix in ("", "rtx", "gtx"):
        if gigabytes is not None and (found := _CARDS.get(f"{prefix}{key}{gigabytes}gb")):
            return found
        if found := _CARDS.get(prefix + key):
            return found if gigabytes is None else replace(found, memory_bytes=gigabytes * GIB)
    if re.match(r"(amd|radeon|instinct|rx\d|mi\d|vega|intel|arc)", key):
        raise UnknownCard(f"{name!r}: engines are built for NVIDIA cards only; the PyTorch fallback serves other makes")
    close = difflib.get_close_matches(key, _CARDS, n=4, cutoff=0.5)
    hint = f"; did you mean {', '.join(_CARDS[one].name for one in close)}?" if close else ""
    raise UnknownCard(f"no card is known as {name!r}{hint} A compute capability such as SM86 does as well.")


def cards() -> tuple[Card, ...]:
    """All known cards, oldest first."""
    return tuple(_CARDS.values())


_NOISE = {
    "nvidia", "geforce", "tesla", "quadro", "gpu", "graphics", "card", "with", "design", "generation", "edition",
    "blackwell", "workstation", "server", "gen", "gddr6", "gddr6x", "gddr7", "hbm2", "hbm2e", "hbm3", "hbm3e",
    "sxm", "sxm2", "sxm3", "sxm4", "sxm5", "the",
}  # fmt: skip


def _key(name: str) -> tuple[str, int | None]:
    """A name without the words that do not tell cards apart, and the memory it states in GiB."""
    text = re.sub(r"[^a-z0-9]+", " ", name.lower())
    text = re.sub(r"\bmax q\b|\bmaxq\b|\bmobile\b|\bnotebook\b", "laptop", text)
    gigabytes = None
    if found := re.search(r"(\d+) ?(?:gb|gib|g)\b", text):
        gigabytes = int(found[1])
        text = text.replace(found[0], " ")
    words = [word for word in text.split() if word not in _NOISE]
    if "laptop" in words:  # wherever it stands in the name
        words = [word for word in words if word != "laptop"] + ["laptop"]
    return "".join(words), gigabytes


# name, SM, GiB, GB/s, float32 TFLOPS; sources: the vendor's specification pages and whitepapers of each generation.
_PASCAL = """
GTX 1050 Ti, 61, 4, 112, 2.14
GTX 1060, 61, 6, 192, 4.37
GTX 1070, 61, 8, 256, 6.46
GTX 1070 Ti, 61, 8, 256, 8.19
GTX 1080, 61, 8, 320, 8.87
GTX 1080 Ti, 61, 11, 484, 11.34
P100, 60, 16, 732, 9.5
P40, 61, 24, 346, 11.8
P4, 61, 8, 192, 5.5
"""
_VOLTA = """
V100, 70, 16, 900, 15.7
V100 32GB, 70, 32, 900, 15.7
Titan V, 70, 12, 653, 14.9
"""
_TURING_WITHOUT_TENSOR_CORES = """
GTX 1630, 75, 4, 96, 1.83
GTX 1650, 75, 4, 128, 2.98
GTX 1650 Super, 75, 4, 192, 4.42
GTX 1650 Laptop, 75, 4, 128, 3.19
GTX 1650 Ti Laptop, 75, 4, 192, 3.04
GTX 1660, 75, 6, 192, 5.03
GTX 1660 Super, 75, 6, 336, 5.03
GTX 1660 Ti, 75, 6, 288, 5.44
GTX 1660 Ti Laptop, 75, 6, 288, 4.88
"""
_TURING = """
RTX 2060, 75, 6, 336, 6.45
RTX 2060 12GB, 75, 12, 336, 7.18
RTX 2060 Laptop, 75, 6, 336, 4.61
RTX 2060 Super, 75, 8, 448, 7.18
RTX 2070, 75, 8, 448, 7.46
RTX 2070 Laptop, 75, 8, 448, 6.64
RTX 2070 Super, 75, 8, 448, 9.06
RTX 2080, 75, 8, 448, 10.07
RTX 2080 Laptop, 75, 8, 448, 9.36
RTX 2080 Super, 75, 8, 496, 11.15
RTX 2080 Ti, 75, 11, 616, 13.45
"""
_TURING_PROFESSIONAL = """
T4, 75, 16, 320, 8.14
Titan RTX, 75, 24, 672, 16.31
RTX 4000, 75, 8, 416, 7.12
RTX 5000, 75, 16, 448, 11.15
RTX 6000, 75, 24, 672, 16.31
RTX 8000, 75, 48, 672, 16.31
"""
_AMPERE_HOPPER_BLACKWELL_SERVER = """
A100, 80, 40, 1555, 19.5, 312
A100 80GB, 80, 80, 2039, 19.5, 312
A100 PCIe, 80, 40, 1555, 19.5, 312
A100 PCIe 80GB, 80, 80, 1935, 19.5, 312
A30, 80, 24, 933, 10.3, 165
H100, 90, 80, 3350, 66.9, 989.4
H100 PCIe, 90, 80, 2039, 51.2, 756
H100 NVL, 90, 94, 3938, 60, 835
H200, 90, 141, 4800, 66.9, 989.4
H200 NVL, 90, 141, 4800, 60, 835
GH200, 90, 96, 4000, 66.9, 989.4
H20, 90, 96, 4000, 44, 148
B200, 100, 180, 8000, 75, 2250
"""
_GEFORCE_30_40_50 = """
RTX 3050, 86, 8, 224, 9.1
RTX 3050 6GB, 86, 6, 168, 6.77
RTX 3050 Laptop, 86, 4, 192, 7.13
RTX 3050 Ti Laptop, 86, 4, 192, 8.68
RTX 3060, 86, 12, 360, 12.74
RTX 3060 8GB, 86, 8, 240, 12.74
RTX 3060 Laptop, 86, 6, 336, 13.07
RTX 3060 Ti, 86, 8, 448, 16.2
RTX 3070, 86, 8, 448, 20.31
RTX 3070 Laptop, 86, 8, 448, 16.59
RTX 3070 Ti, 86, 8, 608, 21.75
RTX 3070 Ti Laptop, 86, 8, 448, 17.49
RTX 3080, 86, 10, 760, 29.77
RTX 3080 12GB, 86, 12, 912, 30.64
RTX 3080 Laptop, 86, 8, 448, 21.01
RTX 3080 Ti, 86, 12, 912, 34.1
RTX 3080 Ti Laptop, 86, 16, 512, 23.61
RTX 3090, 86, 24, 936, 35.58
RTX 3090 Ti, 86, 24, 1008, 40
RTX 4050 Laptop, 89, 6, 192, 12.14
RTX 4060, 89, 8, 272, 15.11
RTX 4060 Laptop, 89, 8, 256, 14.56
RTX 4060 Ti, 89, 8, 288, 22.06
RTX 4060 Ti 16GB, 89, 16, 288, 22.06
RTX 4070, 89, 12, 504, 29.15
RTX 4070 Laptop, 89, 8, 256, 20.04
RTX 4070 Super, 89, 12, 504, 35.48
RTX 4070 Ti, 89, 12, 504, 40.09
RTX 4070 Ti Super, 89, 16, 672, 44.1
RTX 4080, 89, 16, 717, 48.74
RTX 4080 Laptop, 89, 12, 432, 33.85
RTX 4080 Super, 89, 16, 736, 52.22
RTX 4090, 89, 24, 1008, 82.58
RTX 4090 D, 89, 24, 1008, 73.54
RTX 4090 Laptop, 89, 16, 576, 39.71
RTX 5050, 120, 8, 320, 13.17
RTX 5050 Laptop, 120, 8, 384, 13.1
RTX 5060, 120, 8, 448, 19.18
RTX 5060 Laptop, 120, 8, 384, 16.6
RTX 5060 Ti, 120, 8, 448, 23.7
RTX 5060 Ti 16GB, 120, 16, 448, 23.7
RTX 5070, 120, 12, 672, 30.87
RTX 5070 Laptop, 120, 8, 384, 23.2
RTX 5070 Ti, 120, 16, 896, 43.94
RTX 5070 Ti Laptop, 120, 12, 672, 29.9
RTX 5080, 120, 16, 960, 56.28
RTX 5080 Laptop, 120, 16, 896, 39.3
RTX 5090, 120, 32, 1792, 104.75
RTX 5090 D, 120, 32, 1792, 104.75
RTX 5090 Laptop, 120, 24, 896, 46.9
"""
_PROFESSIONAL = """
A2, 86, 16, 200, 4.5
A10, 86, 24, 600, 31.2
A10G, 86, 24, 600, 31.2
A16, 86, 16, 200, 4.5
A40, 86, 48, 696, 37.4
RTX A2000, 86, 6, 288, 7.99
RTX A2000 12GB, 86, 12, 288, 7.99
RTX A4000, 86, 16, 448, 19.17
RTX A4500, 86, 20, 640, 23.65
RTX A5000, 86, 24, 768, 27.77
RTX A5500, 86, 24, 768, 34.1
RTX A6000, 86, 48, 768, 38.71
RTX 2000 Ada, 89, 16, 224, 12
RTX 2000E Ada, 89, 16, 224, 8.9
RTX 4000 Ada, 89, 20, 360, 26.73
RTX 4500 Ada, 89, 24, 432, 39.63
RTX 5000 Ada, 89, 32, 576, 65.28
RTX 5880 Ada, 89, 48, 864, 69.27
RTX 6000 Ada, 89, 48, 960, 91.06
L4, 89, 24, 300, 30.29
L20, 89, 48, 864, 59.35
L40, 89, 48, 864, 90.52
L40S, 89, 48, 864, 91.61
RTX PRO 4000, 120, 24, 672, 46.9
RTX PRO 4500, 120, 32, 896, 54.9
RTX PRO 5000, 120, 48, 1344, 65
RTX PRO 6000, 120, 96, 1792, 125
GB10, 121, 128, 273, 31
"""
_CAPABILITIES = frozenset({60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121})


def _table() -> dict[str, Card]:
    """Cards by key.

    A family's float16 rate over its float32 rate, by its architecture whitepaper: GeForce tensor cores accumulate in
    float32 at half of the rate that the same chips have on professional cards.
    """
    families = (
        (_PASCAL, 1 / 64, False),
        (_VOLTA, 8.0, True),
        (_TURING_WITHOUT_TENSOR_CORES, 2.0, False),
        (_TURING, 4.0, True),
        (_TURING_PROFESSIONAL, 8.0, True),
        (_AMPERE_HOPPER_BLACKWELL_SERVER, 1.0, True),
        (_GEFORCE_30_40_50, 2.0, True),
        (_PROFESSIONAL, 4.0, True),
    )
    table = {}
    for text, ratio, tensor_cores in families:
        for line in text.strip().splitlines():
            name, sm, gib, bandwidth, fp32, *fp16 = (field.strip() for field in line.split(","))
            key, gigabytes = _key(name)
            table[key if gigabytes is None else f"{key}{gigabytes}gb"] = Card(
                name=name,
                sm=int(sm),
                memory_bytes=int(gib) * GIB,
                bandwidth=float(bandwidth) * 1e9,
                fp32_tflops=float(fp32),
                fp16_tflops=float(fp16[0]) if fp16 else float(fp32) * ratio,
                tensor_cores=tensor_cores,
            )
    return table


_CARDS = _table()
