"""The entries agree with themselves: inputs are filled, latents fit from pass to pass, prompts give what is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.axis import Quantity, sizes_of
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.guidance import GuidanceKind
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, ShiftRule, Time
from trt_engines.architectures.prompting import Lengths, TextEncoding
from trt_engines.architectures.registry import ARCHITECTURES, architecture
from trt_engines.bucket import Bucket

EACH = pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)

OF_ENCODERS = {Feed.IDS, Feed.KEPT}
OF_AUTOENCODERS = {Feed.PIXELS, Feed.LATENT}
OF_DENOISERS = set(Feed) - OF_ENCODERS - OF_AUTOENCODERS

GIVES: dict[Feed, Callable[[Architecture, Pass, str], bool]] = {
    Feed.STATE: lambda entry, own, name: (
        own.latent.tensor(name, Feed.STATE).shape == entry.network(own.denoiser).ports.input(name).shape
    ),
    Feed.TIME: lambda entry, own, name: own.levels.units > 0,
    Feed.TEXT: lambda entry, own, name: name in entry.prompting.filled,
    Feed.GUIDANCE: lambda entry, own, name: own.guidance.kind is GuidanceKind.EMBEDDED,
    Feed.SIZES: lambda entry, own, name: entry.network(own.denoiser).ports.input(name).shape[-1] == 6,
    Feed.MASK: lambda entry, own, name: _like_a_latent(entry, own, name, channels=1),
    Feed.MASKED: lambda entry, own, name: _like_a_latent(entry, own, name, channels=own.latent.channels),
    Feed.BEFORE: lambda entry, own, name: (
        own is not entry.passes[0]
        and _shape(entry.network(own.denoiser), name)[1:] == entry.passes[0].latent.shape(BUCKET.width, BUCKET.height)
    ),
    Feed.ZEROS: lambda entry, own, name: True,
}
"""Whether what fills an input is there, and of its shape. No network of today's takes reference latents."""

BUCKET = Bucket(width=1080, height=712, rows=2, tokens=154)


def _shape(network: Network, name: str) -> tuple[int, ...]:
    return network.ports.input(name).at(sizes_of(BUCKET))


def _like_a_latent(entry: Architecture, own: Pass, name: str, *, channels: int) -> bool:
    _, height, width = own.latent.shape(BUCKET.width, BUCKET.height)
    return _shape(entry.network(own.denoiser), name) == (BUCKET.rows, channels, height, width)


def unfilled(entry: Architecture) -> list[str]:
    """Inputs of denoisers that nothing fills, and what prompting gives that none of them takes."""
    found, taken = [], set()
    for own in entry.passes:
        for tensor in entry.network(own.denoiser).inputs:
            if tensor.feed not in GIVES or not GIVES[tensor.feed](entry, own, tensor.name):
                found.append(f"{own.denoiser}.{tensor.name}")
            elif tensor.feed is Feed.TEXT:
                taken.add(tensor.name)
    return [*found, *sorted(entry.prompting.filled - taken)]


@EACH
def test_every_input_of_every_denoiser_has_a_feed_and_something_that_fills_it(entry: Architecture) -> None:
    assert unfilled(entry) == []


@EACH
def test_inputs_have_the_feeds_of_their_networks_role_and_outputs_have_none(entry: Architecture) -> None:
    allowed = {
        Role.TEXT_ENCODER: OF_ENCODERS,
        Role.DENOISER: OF_DENOISERS,
        Role.AUTOENCODER: OF_AUTOENCODERS,
    }
    for network in entry.networks:
        assert {tensor.feed for tensor in network.inputs} <= allowed[network.role], network.name
        assert {tensor.feed for tensor in network.outputs} == {None}, network.name


@EACH
def test_every_denoiser_has_one_pass_and_the_passes_share_the_steps(entry: Architecture) -> None:
    assert [one.denoiser for one in entry.passes] == [network.name for network in entry.denoisers]
    assert sum(one.share for one in entry.passes) == pytest.approx(1)


@EACH
def test_a_denoiser_gives_a_latent_like_the_one_it_steps(entry: Architecture) -> None:
    for own in entry.passes:
        (output,) = entry.network(own.denoiser).outputs

        assert output.at(sizes_of(BUCKET)) == (BUCKET.rows, *own.latent.shape(BUCKET.width, BUCKET.height))


@EACH
def test_the_decoder_takes_the_last_passs_latent_and_the_encoder_gives_the_firsts(entry: Architecture) -> None:
    even = {**sizes_of(BUCKET), Quantity.WIDTH: 16 * 65, Quantity.HEIGHT: 16 * 45}  # nothing is rounded up
    (latent,), (pixels,) = entry.network(entry.decoder).inputs, entry.network(entry.decoder).outputs
    (made,) = entry.network(entry.encoder).outputs

    assert latent.at(even)[1:] == entry.passes[-1].latent.shape(16 * 65, 16 * 45)
    assert pixels.at(even)[1:] == (3, 16 * 45, 16 * 65)
    assert made.at(even)[1:] == entry.passes[0].latent.shape(16 * 65, 16 * 45)


@EACH
def test_sides_of_the_size_step_are_rounded_by_no_network_and_no_smaller_step_has_that(entry: Architecture) -> None:
    steps = {
        axis.step
        for network in entry.networks
        for axis in network.axes
        if axis.quantity in (Quantity.WIDTH, Quantity.HEIGHT)
    }

    assert entry.size_step == math.lcm(*steps)


@EACH
def test_prompting_names_each_text_encoder_once_and_outputs_and_inputs_that_there_are(entry: Architecture) -> None:
    encoders = [network.name for network in entry.networks if network.role is Role.TEXT_ENCODER]

    assert [one.network for one in entry.prompting.encoders] == encoders
    for one in entry.prompting.encoders:
        assert set(one.gives) == {tensor.name for tensor in entry.network(one.network).outputs}


@EACH
def test_what_encoders_give_is_as_wide_together_as_the_denoiser_takes(entry: Architecture) -> None:
    given: dict[str, int] = {}
    for one in entry.prompting.encoders:
        for output in entry.network(one.network).outputs:
            width = output.shape[-1]
            assert isinstance(width, int)
            given[one.gives[output.name]] = given.get(one.gives[output.name], 0) + width

    for name, width in given.items():
        assert entry.network(entry.passes[0].denoiser).ports.input(name).shape[-1] == width, name


@EACH
def test_a_mask_of_tokens_is_there_exactly_where_lengths_are_masked(entry: Architecture) -> None:
    prompting = entry.prompting
    denoiser = entry.network(entry.passes[0].denoiser)

    assert (prompting.mask is not None) == (prompting.lengths is Lengths.MASKED)
    assert [one.name for one in denoiser.inputs if one.name == "context_mask"] == [
        name for name in [prompting.mask] if name
    ]


@EACH
def test_chunks_are_the_fixed_rows_of_an_encoder_and_layers_come_with_a_clip_skip(entry: Architecture) -> None:
    for one in entry.prompting.encoders:
        network = entry.network(one.network)
        length = network.inputs[0].shape[1]
        layered = network.outputs[0].row_axis == 1

        assert one.chunk == (length if isinstance(length, int) else None)
        assert (one.clip_skip is not None) == layered


def of(name: str, network: str = "text_encoder") -> TextEncoding:
    return next(one for one in architecture(name).prompting.encoders if one.network == network)


@pytest.mark.parametrize(
    ("name", "network", "pad", "clip_skip"),
    [
        ("stable_diffusion_1", "text_encoder", 49407, 1),
        ("stable_diffusion_2_v", "text_encoder", 0, 2),
        ("sdxl", "text_encoder", 49407, 2),
        ("sdxl", "text_encoder_2", 0, 2),
        ("stable_cascade", "text_encoder", 49407, None),
        ("flux_dev", "text_encoder", 49407, None),
    ],
)
def test_clip_is_padded_and_skipped_as_todays_workers_do(
    name: str, network: str, pad: int, clip_skip: int | None
) -> None:
    assert (of(name, network).pad, of(name, network).clip_skip) == (pad, clip_skip)


def test_flux_looks_at_256_tokens_at_least_chroma_at_the_prompts_own_and_klein_at_512() -> None:
    assert of("flux_dev", "text_encoder_2").least == 256
    assert of("chroma").least == 1
    assert of("flux2_klein_4b").least == 512
    assert {of(name).most for name in ("chroma", "flux2_klein_4b", "krea_2_turbo", "z_image_turbo")} == {None}


def test_language_models_read_a_chat_and_no_weights() -> None:
    assert of("z_image_turbo").template.after == "<|im_end|>\n<|im_start|>assistant\n"
    assert of("flux2_klein_4b").template.after.endswith("<think>\n\n</think>\n\n")
    assert of("krea_2_turbo").template.cut == 34
    assert not any(of(name).weighted for name in ("z_image_turbo", "flux2_klein_4b", "krea_2_turbo"))
    assert all(of(name).weighted for name in ("stable_diffusion_1", "sdxl", "flux_dev", "chroma"))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("sdxl", NoiseLevels(prediction=Prediction.EPSILON, time=Time.DISCRETE, units=1000)),
        ("stable_diffusion_2_v", NoiseLevels(prediction=Prediction.V, time=Time.DISCRETE, units=1000)),
        ("stable_cascade", NoiseLevels(prediction=Prediction.EPSILON, time=Time.COSINE, shift=2.0)),
        ("flux_schnell", NoiseLevels(prediction=Prediction.FLOW, time=Time.FLOW, shift=1.0)),
        ("chroma", NoiseLevels(prediction=Prediction.FLOW, time=Time.FLUX, shift=1.15)),
        ("z_image_turbo", NoiseLevels(prediction=Prediction.FLOW, time=Time.FLOW, shift=3.0)),
        (
            "flux2_klein_4b",
            NoiseLevels(prediction=Prediction.FLOW, time=Time.FLUX, shift=2.02, shift_rule=ShiftRule.SIZE_AND_STEPS),
        ),
    ],
)
def test_noise_levels_are_comfyuis(name: str, levels: NoiseLevels) -> None:
    assert architecture(name).passes[0].levels == levels


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sdxl", 2),
        ("chroma", 2),
        ("flux_schnell", 1),
        ("flux_dev", 1),
        ("flux2_klein_4b", 1),
        ("krea_2_turbo", 1),
        ("z_image_turbo", 1),
    ],
)
def test_distilled_models_take_half_the_rows(name: str, rows: int) -> None:
    assert architecture(name).rows == rows


def test_cascades_first_pass_is_guided_and_its_second_is_not() -> None:
    assert [one.guidance.rows for one in architecture("stable_cascade").passes] == [2, 1]


def test_cascade_steps_a_small_latent_and_then_a_large_one() -> None:
    first, second = architecture("stable_cascade").passes

    assert (first.latent.pixels, first.latent.shape(1024, 1024)) == (Fraction(128, 3), (16, 24, 24))
    assert second.latent.shape(1024, 1000) == (4, 250, 256)
    assert (first.share, second.share) == (0.67, 0.33)


def test_a_checkpoint_may_predict_otherwise_than_its_architecture() -> None:
    entry = architecture("sdxl").predicting("v_prediction")

    assert entry.prediction is Prediction.V
    assert entry.passes[0].latent == architecture("sdxl").passes[0].latent
    with pytest.raises(ValueError, match="x0"):
        entry.predicting("x0")
