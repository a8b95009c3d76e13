"""A small CLIP vocabulary and a text encoder whose answers can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.interface import Interface, TensorSpec
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostPlan, HostSession
from trt_engines.sessions.host_calls import HostCalls
from trt_engines.sessions.session import ShapeRange
from trt_worker.condition.tokenizer import ClipTokenizer

CORPUS = (
    "a red square on a white ground, masterpiece, highly detailed photograph of the blue circle",
    "the green triangle isn't there; they're 12 shapes, we've 3 of them",
    "photorealistic realistic photo photos real really detail details",
) * 3


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """vocab.json and merges.txt of a byte-level vocabulary with some merges, laid out as CLIP's."""
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>"
    )
    trained.train_from_iterator(CORPUS, trainer)
    learned = json.loads(trained.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [tuple(pair) for pair in learned["merges"]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs))
    return vocab, merges


@pytest.fixture(scope="session")
def tokenizer(vocabulary: tuple[Path, Path]) -> ClipTokenizer:
    return ClipTokenizer(*vocabulary)


class LayeredEncoder:
    """A text encoder whose features are the token id, its position and the layer; it counts its calls."""

    def __init__(self, device: HostComputingDevice, rows: int, layers: int) -> None:
        self.calls: list[int] = []
        self.poisoned = False
        self._layers = layers
        ids = TensorSpec(name="input_ids", shape=(rows, 77), dtype=np.dtype(np.int64))
        context = TensorSpec(name="context", shape=(layers, rows, 77, 3), dtype=np.dtype(np.float32), row_axis=1)
        profile = {"input_ids": ShapeRange(min=(1, 77), opt=ids.shape, max=ids.shape)}
        plan = HostPlan(label="counting/text_encoder", network=self._encode, profiles=(profile,))
        interface = Interface(inputs=(ids,), outputs=(context,))
        stream = device.create_stream("condition")
        self.conditioned = HostCalls(device, BoundEngine(device, HostSession(device, plan), interface, stream))

    def _encode(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        ids = inputs["input_ids"]
        self.calls.append(len(ids))
        context = np.empty((self._layers, len(ids), 77, 3), np.float32)
        for layer in range(self._layers):
            context[layer, :, :, 0] = ids
            context[layer, :, :, 1] = np.arange(77)
            context[layer, :, :, 2] = layer + 1
        if self.poisoned:
            context[0, 0, 3, 1] = np.inf
        return {"context": context}


@pytest.fixture(params=["processor", "simulated card"])
def an_encoder(request: pytest.FixtureRequest) -> Callable[..., LayeredEncoder]:
    def make(rows: int = 2, layers: int = 3) -> LayeredEncoder:
        card = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 24, multiprocessors=1)
        device = CpuDevice() if request.param == "processor" else SimulatedDevice(card, seconds=lambda operation: 1.0)
        return LayeredEncoder(device, rows, layers)

    return make
