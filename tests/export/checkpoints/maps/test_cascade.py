"""The tables of Stable Cascade's files hold every weight once, and agree with diffusers' own converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from trt_engines.bound_weights import Piece
from trt_engines.modules.registry import MODULES, module_of
from trt_export.checkpoints.binding import PREFIX, bind
from trt_export.checkpoints.checkpoint import FOLDERS, open_checkpoint
from trt_export.checkpoints.keymap import Change, KeyMap, Lookup
from trt_export.checkpoints.maps.cascade import maps
from trt_export.checkpoints.random_checkpoint import parameters_of, published
from trt_export.checkpoints.safetensors_file import read_header
from trt_export.cli import app

NETWORKS = [spec.name for spec in MODULES["stable_cascade"]]
STAGE_C_FILE = ("text_encoder", "denoiser", "effnet_encoder")
STAGE_B_FILE = ("denoiser_stage_b", "vae_decoder", "vae_encoder")


def a_state(network: str) -> dict[str, torch.Tensor]:
    """Weights of the small network by the library's names."""
    generator = torch.Generator().manual_seed(0)
    shapes = parameters_of(module_of("stable_cascade", network).small)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def stored(state: dict[str, torch.Tensor], table: KeyMap, prefix: str) -> dict[str, torch.Tensor]:
    """A network's weights as a table says that files have them."""
    found = {}
    for name, one in published({name: tuple(values.shape) for name, values in state.items()}, table).items():
        joined = torch.cat([state[part] for part in one.parts]) if len(one.parts) > 1 else state[next(iter(one.parts))]
        found[prefix + name] = (joined.T if one.change is Change.TRANSPOSED else joined).contiguous()
    return found


def values(pieces: tuple[Piece, ...]) -> np.ndarray:
    return np.concatenate(
        [np.fromfile(piece.file, np.float32, piece.length // 4, offset=piece.offset) for piece in pieces]
    )


@pytest.mark.parametrize(
    ("network", "count"),
    [
        ("text_encoder", 517),
        ("denoiser", 1294),
        ("denoiser_stage_b", 1454),
        ("vae_decoder", 97),
        ("effnet_encoder", 673),
    ],
)
def test_a_full_size_network_has_every_weight_in_one_place(network: str, count: int) -> None:
    parameters = parameters_of(module_of("stable_cascade", network))

    found = published(parameters, maps("stable_cascade", network)[0])

    assert len(found) == count
    assert sorted(name for one in found.values() for name in one.parts) == sorted(parameters)


@pytest.mark.parametrize("network", NETWORKS)
def test_tables_can_be_read_both_ways(network: str) -> None:
    for table in maps("stable_cascade", network):
        lookup = Lookup(table)
        for name in parameters_of(module_of("stable_cascade", network).small):
            place = lookup.by_library(name)
            assert place is not None, (table.layout, name)
            back = lookup.by_stored(place.stored)
            assert back is not None
            assert back.library[place.position] == name


@pytest.mark.parametrize("network", ["denoiser", "denoiser_stage_b"])
def test_the_tables_of_both_stages_are_what_the_librarys_converter_does(network: str) -> None:
    state = a_state(network)

    converted = convert_stable_cascade_unet_single_file_to_diffusers(
        stored(state, maps("stable_cascade", network)[0], "")
    )

    assert set(converted) == set(state)
    assert all(torch.equal(converted[name], state[name]) for name in state)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_bound_in_every_layout_and_in_its_librarys_own(tmp_path: Path, network: str) -> None:
    state = a_state(network)
    shapes = {PREFIX + name: tuple(one.shape) for name, one in state.items()}
    tables = maps("stable_cascade", network)
    files = [stored(state, table, prefix) for table in tables for prefix in table.prefixes]

    for number, tensors in enumerate([*files, state]):
        file = tmp_path / f"{number}.safetensors"
        save_file(tensors, file)
        bound = bind(shapes, read_header(file), tables, tmp_path / f"{number}.side.safetensors")

        assert len(bound) == len(state)
        for one in bound:
            expected = state[one.name.removeprefix(PREFIX)].numpy()
            assert (values(one.pieces).reshape(one.shape) == expected).all(), one.name


def test_joined_attention_is_bound_as_ranges_of_the_file_without_a_copy(tmp_path: Path) -> None:
    state = a_state("denoiser")
    save_file(
        stored(state, maps("stable_cascade", "denoiser")[0], "model.diffusion_model."), tmp_path / "c.safetensors"
    )
    shapes = {PREFIX + name: tuple(one.shape) for name, one in state.items()}

    bind(shapes, read_header(tmp_path / "c.safetensors"), maps("stable_cascade", "denoiser"), tmp_path / "side")

    assert not (tmp_path / "side").exists()


def test_other_architectures_and_networks_have_no_table_here() -> None:
    assert maps("sdxl", "denoiser") == maps("stable_cascade", "text_encoder_2") == ()
    assert all(network in FOLDERS for network in NETWORKS)


def test_both_files_of_a_random_checkpoint_bind_together(tmp_path: Path) -> None:
    files = {"c": STAGE_C_FILE, "b": STAGE_B_FILE}
    for stem, networks in files.items():
        only = [word for network in networks for word in ("--network", network)]
        arguments = ["random-checkpoint", "stable_cascade", str(tmp_path / f"{stem}.safetensors"), "--small", *only]
        result = CliRunner().invoke(app, [*arguments, "--dtype", "bfloat16"])
        assert result.exit_code == 0, result.output
    assert "model.diffusion_model.down_blocks.0.2.attention.attn.in_proj_weight" in load_file(
        tmp_path / "c.safetensors"
    )

    second = tmp_path / "b.safetensors"
    checkpoint = open_checkpoint(tmp_path / "c.safetensors", {"denoiser_stage_b": second, "vae": second})

    for spec in MODULES["stable_cascade"]:
        shapes = {PREFIX + name: shape for name, shape in parameters_of(spec.small).items()}
        side = tmp_path / f"{spec.name}.side.safetensors"
        bound = bind(shapes, checkpoint.of(spec.name), maps("stable_cascade", spec.name), side)
        assert {one.name: one.shape for one in bound} == shapes


@pytest.mark.parametrize(
    ("arguments", "said"), [((), "--network"), (("--network", "prior"), "networks are text_encoder, denoiser,")]
)
def test_a_random_checkpoint_in_one_file_is_refused_with_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    target = str(tmp_path / "all.safetensors")

    result = CliRunner().invoke(app, ["random-checkpoint", "stable_cascade", target, "--small", *arguments])

    assert result.exit_code != 0
    assert said in result.output
