"""Text encoders and autoencoders against the libraries' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, Flux2KleinPipeline
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLTextConfig,
    Qwen3VLTextModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.t5.modeling_t5 import T5Attention

from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import module_of
from trt_engines.modules.text_encoders import bucket_edges


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-5


def ids(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, 1000, (rows, tokens), generator=torch.Generator().manual_seed(tokens))


def made(spec: ModuleSpec, **changes: Any) -> Any:
    torch.manual_seed(5)
    return spec.make({**spec.small_config, **changes})


def test_pooled_clip_is_the_state_at_the_first_end_token() -> None:
    spec = module_of("flux_dev", "text_encoder")
    ours = made(spec)
    theirs = CLIPTextModel(CLIPTextConfig(**spec.small_config)).eval()
    theirs.load_state_dict(ours.model.state_dict())
    tokens = ids(2, 77)
    tokens[0, 9:] = tokens[1, 76:] = 1023

    assert close(ours(tokens), theirs(tokens).pooler_output)


def test_t5_gives_the_librarys_states_at_every_distance_of_two_tokens() -> None:
    spec = module_of("flux_dev", "text_encoder_2")
    ours = made(spec)
    theirs = T5EncoderModel(T5Config(**spec.small_config)).eval()
    theirs.load_state_dict(ours.model.state_dict())
    tokens = ids(2, 200)

    assert close(ours(tokens), theirs(tokens).last_hidden_state)


def test_bucket_edges_are_where_the_librarys_bucket_numbers_rise() -> None:
    distances = torch.arange(300)
    numbers = T5Attention._relative_position_bucket(-distances, num_buckets=32, max_distance=128)

    assert bucket_edges(16, 128) == [d for d in range(1, 300) if numbers[d] > numbers[d - 1]]


def test_klein_context_is_what_its_pipeline_stacks() -> None:
    spec = module_of("flux2_klein_4b", "text_encoder")
    ours = made(spec)
    theirs = _qwen(Qwen3Model, Qwen3Config, spec, ours)
    tokens, mask = ids(2, 24), torch.ones(2, 24, dtype=torch.bool)
    mask[1, 15:] = False

    class Tokenizer:
        """Hands the pipeline the same tokens for each prompt in turn."""

        def apply_chat_template(self, messages: Any, **_: Any) -> str:
            return str(messages[0]["content"])

        def __call__(self, text: str, **_: Any) -> dict[str, torch.Tensor]:
            row = int(text)
            return {"input_ids": tokens[row : row + 1], "attention_mask": mask[row : row + 1].long()}

    stacked = Flux2KleinPipeline._get_qwen3_prompt_embeds(
        theirs, Tokenizer(), ["0", "1"], hidden_states_layers=[1, 2, 3]
    )
    assert close(ours(tokens, mask), stacked)  # padding too: the denoiser looks at it


def test_z_image_context_is_the_librarys_state_before_the_last_layer() -> None:
    spec = module_of("z_image_turbo", "text_encoder")
    ours = made(spec)
    theirs = _qwen(Qwen3Model, Qwen3Config, spec, ours)
    tokens, mask = ids(2, 24), torch.ones(2, 24, dtype=torch.bool)

    states = theirs(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states

    assert close(ours(tokens, mask), states[-2])


def test_krea_2_context_counts_positions_past_padding_in_the_middle() -> None:
    spec = module_of("krea_2_turbo", "text_encoder")
    ours = made(spec)
    theirs = _qwen(Qwen3VLTextModel, Qwen3VLTextConfig, spec, ours)
    tokens, mask = ids(2, 24), torch.ones(2, 24, dtype=torch.bool)
    mask[1, 10:19] = False
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0).unsqueeze(0).expand(3, -1, -1)

    states = theirs(
        input_ids=tokens, attention_mask=mask, position_ids=positions, output_hidden_states=True
    ).hidden_states

    assert close(ours(tokens, mask)[mask], torch.cat([states[k] for k in (1, 2, 3)], dim=-1)[mask])


def _qwen(model_class: Any, config_class: Any, spec: ModuleSpec, ours: Any) -> Any:
    """The library's model with one layer more, so that no tap is its normed last state."""
    config = {key: value for key, value in spec.small_config.items() if key != "taps"}
    layers = max(spec.small_config["taps"]) + 1
    theirs = model_class(config_class(**config, num_hidden_layers=layers)).eval()
    missing = theirs.load_state_dict(ours.model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    return theirs


def halves(family: str) -> tuple[Any, Any]:
    """The decoder and the encoder."""
    return made(module_of(family, "vae_decoder")), made(module_of(family, "vae_encoder"))


def test_flux_autoencoder_has_the_denoisers_units_on_both_sides() -> None:
    decoder, encoder = halves("flux_dev")
    reference = _autoencoder(AutoencoderKL, "flux_dev", decoder, encoder)
    latent, pixels = torch.randn(2, 16, 4, 6), torch.rand(2, 3, 32, 48) * 2 - 1

    assert close(decoder(latent), reference.decode(latent / 0.3611 + 0.1159).sample)
    assert close(encoder(pixels), (reference.encode(pixels).latent_dist.mode() - 0.1159) * 0.3611)


def test_klein_autoencoder_patches_and_whitens_as_its_pipeline_does() -> None:
    decoder, encoder = halves("flux2_klein_4b")
    for part in (decoder, encoder):
        part.model.bn.running_mean.copy_(torch.linspace(-1, 1, 128))
        part.model.bn.running_var.copy_(torch.linspace(0.5, 2, 128))
    reference = _autoencoder(AutoencoderKLFlux2, "flux2_klein_4b", decoder, encoder)
    latent, pixels = torch.randn(2, 128, 2, 3), torch.rand(2, 3, 32, 48) * 2 - 1
    mean = torch.linspace(-1, 1, 128).view(1, -1, 1, 1)
    deviation = torch.sqrt(torch.linspace(0.5, 2, 128).view(1, -1, 1, 1) + 1e-4)

    unpatched = Flux2KleinPipeline._unpatchify_latents(latent * deviation + mean)
    patched = Flux2KleinPipeline._patchify_latents(reference.encode(pixels).latent_dist.mode())
    assert close(decoder(latent), reference.decode(unpatched).sample)
    assert close(encoder(pixels), (patched - mean) / deviation)


def test_qwen_image_autoencoder_is_the_librarys_for_a_single_frame() -> None:
    decoder, encoder = halves("krea_2_turbo")
    reference = _autoencoder(AutoencoderKLQwenImage, "krea_2_turbo", decoder, encoder)
    latent, pixels = torch.randn(2, 16, 4, 6), torch.rand(2, 3, 32, 48) * 2 - 1
    mean = torch.tensor(reference.config.latents_mean).view(1, -1, 1, 1)
    deviation = torch.tensor(reference.config.latents_std).view(1, -1, 1, 1)

    decoded = reference.decode((latent * deviation + mean).unsqueeze(2)).sample.squeeze(2)
    encoded = reference.encode(pixels.unsqueeze(2)).latent_dist.mode().squeeze(2)
    assert close(decoder(latent), decoded)
    assert close(encoder(pixels), (encoded - mean) / deviation)


def _autoencoder(model_class: Any, family: str, decoder: Any, encoder: Any) -> Any:
    reference = model_class(**module_of(family, "vae_decoder").small_config).eval()
    for part in (decoder, encoder):
        assert not reference.load_state_dict(part.model.state_dict(), strict=False).unexpected_keys
    return reference


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield
