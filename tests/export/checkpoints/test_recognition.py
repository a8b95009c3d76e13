"""A checkpoint's own word on what its network predicts is heard, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trt_export.checkpoints.checkpoint import Checkpoint, open_checkpoint
from trt_export.checkpoints.prediction import TELLING_BIASES
from trt_export.checkpoints.recognition import Recognised, recognise
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signatures import SIGNATURES, unsaid

UNET = "model.diffusion_model."


def a_checkpoint(tmp_path: Path, family: str, **more: np.ndarray) -> Checkpoint:
    """The telling tensors of an architecture, by strides that take no memory, and more."""
    signature = next(one for one in SIGNATURES if one.architecture == family)
    tensors = {UNET + name: np.zeros(shape, np.float16) for name, shape in signature.tensors.items()}
    save_file(tensors | more, tmp_path / "model.safetensors")
    return open_checkpoint(tmp_path / "model.safetensors")


EMPTY = np.zeros(0, np.float32)


@pytest.mark.parametrize(
    ("marks", "prediction", "rescaled"),
    [
        ((), "epsilon", False),
        (("ztsnr",), "epsilon", False),
        (("v_pred",), "v_prediction", False),
        (("v_pred", "ztsnr"), "v_prediction", True),
    ],
)
def test_an_empty_tensor_says_what_is_predicted(
    tmp_path: Path, marks: tuple[str, ...], prediction: str, rescaled: bool
) -> None:
    checkpoint = a_checkpoint(tmp_path, "sdxl", **dict.fromkeys(marks, EMPTY))

    assert recognise(checkpoint) == Recognised(architecture="sdxl", prediction=prediction, zero_terminal_snr=rescaled)
    assert recognise(checkpoint, "sdxl").prediction == prediction


@pytest.mark.parametrize("mark", ["edm_mean", "edm_std"])
def test_latents_of_another_kind_are_refused_by_name(tmp_path: Path, mark: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=f"{mark} says that this is Playground.*Take a checkpoint of plain"):
        recognise(a_checkpoint(tmp_path, "sdxl", **{mark: np.ones(4, np.float32)}))


LOWEST, HIGHEST = "edm_vpred.sigma_min", "edm_vpred.sigma_max"


@pytest.mark.parametrize(
    ("values", "sigma_min", "sigma_max"),
    [
        ({LOWEST: np.float32(0.25), HIGHEST: np.float32(80.0)}, 0.25, 80.0),
        ({LOWEST: np.array([0.5], np.float16), HIGHEST: np.array([64.0])}, 0.5, 64.0),
        ({HIGHEST: np.float32(80.0)}, 0.002, 80.0),
        ({LOWEST: np.float32(0.25)}, 0.25, 120.0),
        ({LOWEST: np.float32(0.25), HIGHEST: np.float32(80.0), "v_pred": EMPTY, "ztsnr": EMPTY}, 0.25, 80.0),
    ],
)
def test_the_range_of_continuous_levels_is_read_from_its_tensors(
    tmp_path: Path, values: dict[str, np.ndarray], sigma_min: float, sigma_max: float
) -> None:
    checkpoint = a_checkpoint(tmp_path, "sdxl", **{name: np.asarray(value) for name, value in values.items()})

    expected = Recognised(architecture="sdxl", prediction="v_prediction", sigma_min=sigma_min, sigma_max=sigma_max)
    assert recognise(checkpoint) == recognise(checkpoint, "sdxl") == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({LOWEST: np.float32(3.0), HIGHEST: np.float32(3.0)}, "go from 3 to 3, which is no range above 0"),
        ({LOWEST: np.float32(0.0)}, "go from 0 to 120, which is no range above 0"),
        ({HIGHEST: np.float32(np.inf)}, "go from 0.002 to inf"),
        ({HIGHEST: np.float32(np.nan)}, "go from 0.002 to nan"),
        ({HIGHEST: np.ones(2, np.float32)}, r"sigma_max should be the one number .* is F32 of shape \[2\]"),
        ({HIGHEST: np.zeros(0, np.float32)}, r"should be the one number .* of shape \[0\]"),
        ({LOWEST: np.ones((), np.int32)}, "sigma_min should be the one number of a noise level, and is I32"),
    ],
)
def test_a_range_that_gives_no_levels_is_refused(tmp_path: Path, values: dict[str, np.ndarray], words: str) -> None:
    checkpoint = a_checkpoint(tmp_path, "sdxl", **{name: np.asarray(value) for name, value in values.items()})

    with pytest.raises(UnreadableCheckpoint, match=f"model.safetensors: .*{words}.*take the checkpoint from where"):
        recognise(checkpoint)


@pytest.mark.parametrize("name", TELLING_BIASES)
@pytest.mark.parametrize(("spread", "family"), [(0.05, "stable_diffusion_2"), (0.2, "stable_diffusion_2_v")])
def test_version_2_is_told_apart_by_the_spread_of_one_bias(
    tmp_path: Path, name: str, spread: float, family: str
) -> None:
    bias = np.random.default_rng(0).normal(0, spread, 320).astype(np.float16)

    found = recognise(a_checkpoint(tmp_path, "stable_diffusion_2", **{UNET + name: bias}))

    assert (found.architecture, found.assumption) == (family, None)
    assert found.prediction == ("epsilon" if family == "stable_diffusion_2" else "v_prediction")


def test_version_2_without_that_bias_is_an_assumption_that_is_said(tmp_path: Path) -> None:
    found = recognise(a_checkpoint(tmp_path, "stable_diffusion_2"))

    assert found.architecture == "stable_diffusion_2"
    assert "--architecture stable_diffusion_2_v" in str(found.assumption)


def a_folder(tmp_path: Path, told: object) -> Checkpoint:
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    a_checkpoint(tmp_path / "unet", "stable_diffusion_2")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    return open_checkpoint(tmp_path)


def test_the_schedulers_file_is_heard(tmp_path: Path) -> None:
    told = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}

    found = recognise(a_folder(tmp_path, told))

    assert found == Recognised(architecture="stable_diffusion_2_v", prediction="v_prediction", zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"prediction_type": "sample"}, "the prediction 'sample' is not served"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}, "a model of EDMEulerScheduler"),
        ([], "cannot be read as a scheduler's configuration"),
    ],
)
def test_a_scheduler_of_something_else_is_refused(tmp_path: Path, told: object, words: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=words):
        recognise(a_folder(tmp_path, told))


def test_a_family_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    checkpoint = a_folder(tmp_path, {"prediction_type": "v_prediction"})

    with pytest.raises(UnreadableCheckpoint, match="its prediction is v_prediction, and stable_diffusion_2 has"):
        recognise(checkpoint, "stable_diffusion_2")


def test_kontext_is_named_as_one_that_looks_like_flux_dev() -> None:
    assert "Flux.1 Kontext dev is not served" in str(unsaid("flux_dev"))
