"""Published layouts of checkpoints, and what is right for each: it is bound, every network, or refused by its name.

Each is a few telling tensors (`checkpoints/`, names, types and shapes as published), completed to the full list of the
networks' weights by the project's key maps, in the layout to which the telling ones belong. Files have full size and
holes in place of values: headers carry everything.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_engines.modules.registry import MODULES, module_of
from trt_export.checkpoints.keymap import diffusers
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.prediction import EDM_HIGHEST, EDM_LOWEST, TELLING_BIASES
from trt_export.checkpoints.random_checkpoint import NoLayout, Published, parameters_of, published
from trt_export.checkpoints.safetensors_file import BITS, encode_header, read_header

HEADERS = Path(__file__).parent / "checkpoints"

WHOLE = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Types of the weights that a telling tensor's network is completed with; packed ones stand alone."""

Described = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type, in safetensors' words, and shape of tensors by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A checkpoint on disk."""

    path: Path
    networks: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layout and what is right for it."""

    name: str
    architecture: str
    write: Callable[[Path], Place]  # into an empty folder
    words: tuple[str, ...] = ()  # of the refusal; (): all networks are bound
    prediction: str | None = None  # that is recognised, where it is not the architecture's own
    zero_terminal_snr: bool = False
    mentions: str = ""  # a name that the assumption has in it
    stored_bytes_per_weight: float | None = None  # of the denoiser, at most


def described(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The telling tensors of a header that is kept as JSON."""
    return {name: (one["dtype"], tuple(one["shape"])) for name, one in json.loads(file.read_bytes()).items()}


def write_holes(file: Path, tensors: Described) -> Path:
    """A safetensors file of full size whose values take no place on the disk: all are zero."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: one for name, one in tensors.items() if BITS[one[0]] >= 8}
    header = encode_header(whole)
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(math.prod(shape) * BITS[word] // 8 for word, shape in whole.values()))
    return file


def completed(name: str, telling: Described, networks: Iterable[str] = ()) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Telling tensors and all other weights of an architecture's networks, in the layout and type of the telling ones.

    Args: networks: by name; all without any.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for component in networks or [one.name for one in MODULES[name]]:
        # Both halves of an autoencoder are in one layout.
        layouts = _layouts(name, component.replace("vae_encoder", "vae_decoder"))
        best = max(range(len(layouts)), key=lambda number: len(layouts[number].keys() & telling.keys()))
        stored = _layouts(name, component)[best]
        types = Counter(telling[key][0] for key in stored.keys() & telling.keys())
        word = next((one for one, _ in types.most_common() if one in WHOLE), "BF16")
        found |= {key: (word, one.shape) for key, one in stored.items()}
    return found | dict(telling)


@cache
def _layouts(name: str, component: str) -> tuple[Mapping[str, Published], ...]:
    """The tensors of a network in every layout behind every prefix; the published one first."""
    parameters, tables = parameters_of(module_of(name, component)), key_maps(name, component)
    prefixes = tuple(dict.fromkeys(prefix for table in tables for prefix in table.prefixes))
    found = []
    for table in (*tables, diffusers(parameters, prefixes)):
        try:
            stored = published(parameters, table)
        except NoLayout:  # a half of a network whose other half lies in the same tensors
            continue
        found += [{prefix + key: one for key, one in stored.items()} for prefix in table.prefixes]
    return tuple(found)


def _one_file(name: str, telling: Described, **more: object) -> Callable[[Path], Place]:
    def write(folder: Path) -> Place:
        return Place(path=write_holes(folder / str(more.get("file", "model.safetensors")), completed(name, telling)))

    return write


def _denoiser_alone(name: str, telling: Described) -> Callable[[Path], Place]:
    def write(folder: Path) -> Place:
        return Place(path=write_holes(folder / "model.safetensors", completed(name, telling, ("denoiser",))))

    return write


def _published_header(case: str, name: str, **right: object) -> Case:
    telling = described(HEADERS / f"{case}.json")
    return Case(name=case, architecture=name, write=_one_file(name, telling), **right)  # type: ignore[arg-type]


def _in_blocks(folder: Path) -> Place:
    """Z-Image with its text encoder as it is published in float8 with a scale for each block of 128 x 128."""
    telling = described(HEADERS / "qwen3_4b_fp8_official_block_scales.json")
    encoder = completed("z_image_turbo", telling, ("text_encoder",))
    for key, (_, shape) in list(encoder.items()):
        if ".layers." in key and len(shape) == 2 and key.endswith(".weight"):
            encoder[key] = ("F8_E4M3", shape)
            encoder[f"{key}_scale_inv"] = ("BF16", (shape[0] // 128, shape[1] // 128))
    encoder |= {"model.norm.weight": ("BF16", (2560,)), "model.layers.35.input_layernorm.weight": ("BF16", (2560,))}
    rest = completed("z_image_turbo", {}, ("denoiser", "vae_decoder", "vae_encoder"))
    return Place(
        path=write_holes(folder / "z_image.safetensors", rest),
        networks={"text_encoder": write_holes(folder / "qwen3_4b_fp8.safetensors", encoder)},
    )


def _stage_b(folder: Path) -> Place:
    telling = described(HEADERS / "cascade_stage_b_alone.json")
    return Place(
        path=write_holes(folder / "stage_b.safetensors", completed("stable_cascade", telling, ("denoiser_stage_b",)))
    )


DIFFUSERS = {
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
    "denoiser": "unet/diffusion_pytorch_model.safetensors",
    "vae_decoder": "vae/diffusion_pytorch_model.safetensors",
    "vae_encoder": "vae/diffusion_pytorch_model.safetensors",
}


def _library(name: str, folder: Path) -> Place:
    """A diffusers folder without configurations: full size, the library's names."""
    files: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for spec in MODULES[name]:
        own = files.setdefault(DIFFUSERS[spec.name], {})
        own |= {key: ("F16", shape) for key, shape in parameters_of(spec).items()}
    for file, tensors in files.items():
        write_holes(folder / file, tensors)
    return Place(path=folder)


def _comfy_repository(folder: Path) -> Place:
    z_image = "z_image_turbo"
    parts = {
        "diffusion_models/z_image_turbo_bf16.safetensors": (("denoiser",), "cap_embedder.1.weight"),
        "text_encoders/qwen_3_4b.safetensors": (("text_encoder",), "model.embed_tokens.weight"),
        "vae/ae.safetensors": (("vae_decoder", "vae_encoder"), "decoder.conv_in.weight"),
    }
    for place, (networks, key) in parts.items():
        shape = next(layout[key].shape for layout in _layouts(z_image, networks[0]) if key in layout)
        tensors = completed(z_image, {key: ("BF16", shape)}, networks)
        write_holes(folder / "split_files" / place, tensors)
    return Place(path=folder)


def _scheduler(name: str, told: Mapping[str, object]) -> Callable[[Path], Place]:
    def write(folder: Path) -> Place:
        place = _library(name, folder)
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
        return place

    return write


def _velocity_by_its_bias(folder: Path) -> Place:
    bias = f"model.diffusion_model.{TELLING_BIASES[0]}"
    file = write_holes(folder / "v2-1_768.safetensors", completed("stable_diffusion_2", {bias: ("F32", (320,))}))
    return _filled(file, {bias: np.random.default_rng(0).normal(0, 0.2, 320)})


def _cosxl(folder: Path) -> Place:
    telling = described(HEADERS / "sdxl_cosxl_edm_vpred.json")
    file = write_holes(folder / "cosxl.safetensors", completed("sdxl", telling))
    return _filled(file, {EDM_LOWEST: np.array(0.002), EDM_HIGHEST: np.array(120.0)})


def _filled(file: Path, values: Mapping[str, NDArray[np.float64]]) -> Place:
    """A file some of whose holes, of float32 tensors, are filled."""
    stored = read_header(file)
    with file.open("r+b") as stream:
        for name, numbers in values.items():
            stream.seek(stored[name].offset)
            stream.write(numbers.astype(np.float32).tobytes())
    return Place(path=file)


def _with_indices(folder: Path) -> Place:
    place = _library("stable_diffusion_1", folder)
    bins = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.bin"}}
    stale = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "text_encoder" / "pytorch_model.bin.index.json").write_text(json.dumps(bins))
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(stale))
    (folder / "vae_decoder").mkdir()
    (folder / "vae_decoder" / "config.json").write_text(json.dumps({"block_out_channels": [1]}))
    return place


UNET = "model.diffusion_model."
SD1: dict[str, tuple[str, tuple[int, ...]]] = {f"{UNET}input_blocks.0.0.weight": ("F16", (320, 4, 3, 3))}
SDXL: dict[str, tuple[str, tuple[int, ...]]] = {f"{UNET}input_blocks.0.0.weight": ("F16", (320, 4, 3, 3))}
TOKENS_L, TOKENS_H = ("F16", (49408, 768)), ("F16", (49408, 1024))
EMBEDDED = "embeddings.token_embedding.weight"
QKV = "double_blocks.0.img_attn.qkv"
FLOAT8_ROWS: dict[str, tuple[str, tuple[int, ...]]] = {
    f"{UNET}{QKV}.weight": ("F8_E4M3", (9216, 3072)),
    f"{UNET}{QKV}.weight_scale": ("F32", (9216, 1)),
}
NEWER: dict[str, tuple[str, tuple[int, ...]]] = {"rng.state": ("U64", (4,)), "rng.scale": ("F8_E8M0", (4,))}
KLEIN_9B: Described = {
    "img_in.weight": ("BF16", (4096, 128)),
    "txt_in.weight": ("BF16", (4096, 12288)),
    "double_stream_modulation_img.lin.weight": ("BF16", (24576, 4096)),
}


def _alone(telling: Described) -> Callable[[Path], Place]:
    return lambda folder: Place(path=write_holes(folder / "model.safetensors", telling))


def _nvfp4_encoder(folder: Path) -> Place:
    q = "model.layers.0.self_attn.q_proj"
    packed = {
        f"{q}.weight": ("U8", (4096, 1280)),
        f"{q}.weight_scale": ("F8_E4M3", (4096, 160)),
        f"{q}.weight_scale_2": ("F32", ()),
        "model.embed_tokens.weight": ("BF16", (151936, 2560)),
    }
    rest = completed("z_image_turbo", {}, ("denoiser", "vae_decoder", "vae_encoder"))
    encoder = completed("z_image_turbo", packed, ("text_encoder",))
    return Place(
        path=write_holes(folder / "z_image.safetensors", rest),
        networks={"text_encoder": write_holes(folder / "qwen_3_4b_fp4.safetensors", encoder)},
    )


def _case(name: str, family: str, telling: Described, **right: object) -> Case:
    return Case(name=name, architecture=family, write=_one_file(family, telling), **right)  # type: ignore[arg-type]


CASES: tuple[Case, ...] = (
    _published_header("chroma_comfy_saved_t5_prefix", "chroma"),
    _published_header("flux2_vae_library_names_behind_vae", "flux2_klein_4b"),
    _published_header("sd_turbo_sgm_prefix", "stable_diffusion_2"),
    _published_header("sdxl_text_projection_dot_weight", "sdxl"),
    _published_header("flux_fp8_comfy_all_in_one", "flux_dev", stored_bytes_per_weight=1.001),
    _published_header("sdxl_v_pred_ztsnr", "sdxl", prediction="v_prediction", zero_terminal_snr=True),
    Case(name="qwen3_4b_fp8_official_block_scales", architecture="z_image_turbo", write=_in_blocks),
    _published_header("flux_fp8_e5m2", "flux_dev", words=("float8 e5m2", "take the float8 e4m3 or the bf16 file")),
    Case(name="sdxl_cosxl_edm_vpred", architecture="sdxl", write=_cosxl, prediction="v_prediction"),
    _published_header("flux_nf4", "flux_dev", words=("NF4", "flux1-dev-fp8.safetensors")),
    _published_header("flux_nvfp4", "flux_dev", words=("NVFP4", "flux1-dev-fp8.safetensors")),
    _published_header("klein_nvfp4", "flux2_klein_4b", words=("NVFP4", "flux-2-klein-4b-fp8.safetensors")),
    _published_header("krea2_int8_convrot", "krea_2_turbo", words=("int8", "krea2_turbo_fp8.safetensors")),
    _published_header("z_image_mxfp8_e8m0", "z_image_turbo", words=("MXFP8", "z_image_turbo_bf16.safetensors")),
    Case(
        name="cascade_stage_b_alone",
        architecture="stable_cascade",
        write=_stage_b,
        words=("stage B of Stable Cascade", "name stage C", "--network denoiser_stage_b=FILE"),
    ),
    _case(
        "sd1_comfy_without_text_model",
        "stable_diffusion_1",
        SD1 | {f"text_encoders.clip_l.transformer.{EMBEDDED}": TOKENS_L},
    ),
    _case(
        "sd1_in_the_newer_layout",
        "stable_diffusion_1",
        SD1 | {f"conditioner.embedders.0.transformer.text_model.{EMBEDDED}": TOKENS_L},
    ),
    _case(
        "sd1_in_the_newer_layout_by_open_clip",
        "stable_diffusion_1",
        SD1 | {"conditioner.embedders.0.model.token_embedding.weight": TOKENS_L},
    ),
    _case("sdxl_without_text_model", "sdxl", SDXL | {f"conditioner.embedders.0.transformer.{EMBEDDED}": TOKENS_L}),
    _case(
        "sdxl_comfy_clip_g_without_text_model",
        "sdxl",
        SDXL | {f"text_encoders.clip_g.transformer.{EMBEDDED}": ("F16", (49408, 1280))},
    ),
    _case(
        "sd2_transformers_names",
        "stable_diffusion_2",
        SD1 | {f"cond_stage_model.transformer.text_model.{EMBEDDED}": TOKENS_H},
    ),
    _case("sd1_tensors_of_newer_types", "stable_diffusion_1", SD1 | NEWER),
    Case(
        name="sd1_ending_in_capitals",
        architecture="stable_diffusion_1",
        write=_one_file("stable_diffusion_1", SD1, file="Model.SAFETENSORS"),
    ),
    _case("flux_float8_with_a_scale_for_each_row", "flux_dev", FLOAT8_ROWS, mentions="Kontext"),
    Case(name="comfy_repository_folder", architecture="z_image_turbo", write=_comfy_repository),
    Case(name="diffusers_folder_with_stale_indices", architecture="stable_diffusion_1", write=_with_indices),
    Case(
        name="sd21_v_by_its_bias",
        architecture="stable_diffusion_2_v",
        write=_velocity_by_its_bias,
        prediction="v_prediction",
    ),
    Case(
        name="sdxl_scheduler_says_velocity",
        architecture="sdxl",
        write=_scheduler("sdxl", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        prediction="v_prediction",
        zero_terminal_snr=True,
    ),
    Case(
        name="sd1_scheduler_says_sample",
        architecture="stable_diffusion_1",
        write=_scheduler("stable_diffusion_1", {"_class_name": "DDIMScheduler", "prediction_type": "sample"}),
        words=("'sample' is not served",),
    ),
    _case(
        "sdxl_playground", "sdxl", SDXL | {"edm_mean": ("F32", (4,)), "edm_std": ("F32", (4,))}, words=("Playground",)
    ),
    _case(
        "sd1_latent_consistency",
        "stable_diffusion_1",
        SD1 | {f"{UNET}time_embed.cond_proj.weight": ("F16", (320, 256))},
        words=("latent consistency model", "time_embed.cond_proj.weight"),
    ),
    _case(
        "sd1_with_an_adapter_inside",
        "stable_diffusion_1",
        SD1 | {f"{UNET}middle_block.1.transformer_blocks.0.fuser.linear.weight": ("F16", (1280, 768))},
        words=("fuser.linear.weight", "plain model"),
    ),
    _case(
        "flux_float8_with_an_unknown_scale",
        "flux_dev",
        {f"{UNET}{QKV}.weight": ("F8_E4M3", (9216, 3072)), f"{UNET}{QKV}.weight_scale_outer": ("F32", ())},
        words=("weight_scale_outer", "take the float8 e4m3 or the bf16 file"),
    ),
    Case(
        name="z_image_text_encoder_in_nvfp4",
        architecture="z_image_turbo",
        write=_nvfp4_encoder,
        words=("NVFP4", "qwen_3_4b.safetensors"),
    ),
    Case(
        name="klein_9b",
        architecture="flux2_klein_4b",
        write=_alone(KLEIN_9B),
        words=("FLUX.2 Klein 9B", "flux-2-klein-4b.safetensors"),
    ),
)
"""The published headers, then one for every further layout that was refused, or taken for something else, before."""
