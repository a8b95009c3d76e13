"""A small checkpoint as diffusers lays it out, and graphs of its networks that compute nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from trt_engines.architectures.registry import architecture
from trt_engines.modules.registry import MODULES
from trt_export.adding import add as adding
from trt_export.adding.add import Added, add_model
from trt_export.adding.folder import SERVED_AS
from trt_export.adding.wanted import Wanted
from trt_export.building.located import Located
from trt_export.building.source import Source, open_source
from trt_export.checkpoints.binding import PREFIX
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.random_checkpoint import parameters_of, random_tensors, write_random
from trt_export.child import unheard
from trt_export.graphs.cache import GraphCache

FAMILY = "stable_diffusion_1"
PARTS = {"text_encoder": ("text_encoder",), "unet": ("denoiser",), "vae": ("vae_decoder", "vae_encoder")}

Add = Callable[..., Added]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion 1 in half precision; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "tiny"
    specs = {spec.name: spec for spec in MODULES[FAMILY]}
    for part, networks in PARTS.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(dict(specs[networks[0]].small_config)))
        tensors = random_tensors(architecture(FAMILY), small=True, networks=networks)
        write_random(folder / part / "model.safetensors", tensors, seed=0, dtype="float16")
    return folder


@pytest.fixture(scope="session")
def graphs(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a graph for each of its networks: all weights, and nothing that reads them."""
    cache = GraphCache(tmp_path_factory.mktemp("store") / "graphs")
    source = open_source(str(small), family=FAMILY)
    for network, module in source.modules.items():
        weights = [
            TensorProto(name=PREFIX + name, data_type=TensorProto.FLOAT, dims=shape)
            for name, shape in parameters_of(module).items()
        ]
        for tensor in weights:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="unbound")
        graph = helper.make_graph([], network, [], [], weights)
        model = onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        place = cache.path(f"{FAMILY}/{network}", module.config, SERVED_AS)
        cache.keep(place, model.SerializeToString())
    return cache.root


@pytest.fixture
def checkpoint(small: Path, tmp_path: Path) -> Path:
    """The small checkpoint, to be changed."""
    return Path(shutil.copytree(small, tmp_path / "tiny"))


@pytest.fixture
def of_small_size(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single files, which say no sizes of their own, are taken for small ones."""
    source = open_source(str(small), family=FAMILY)

    def opened(located: Located, family: str | None) -> Source:
        return replace(source, name=located.name, checkpoint=open_checkpoint(located.path, dict(located.networks)))

    monkeypatch.setattr(adding, "open_located", opened)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models that is not there yet."""
    return tmp_path / "models"


@pytest.fixture
def add(models: Path, graphs: Path) -> Add:
    """Adds a checkpoint of the small architecture."""

    def adding(path: Path, **asked: object) -> Added:
        wanted = Wanted(path=path, **{"family": FAMILY, **asked})  # type: ignore[arg-type]
        return add_model(wanted, models=models, graphs=graphs, tell=unheard, stop=threading.Event())

    return adding
