"""What a device's loop asks of its models' networks: contexts of prompts, latents of pictures, denoisers, pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineFault, EngineRefused
from trt_engines.interface import CLIP_TOKENS
from trt_engines.model import Component, Model
from trt_worker.batch.admission import BatchKey
from trt_worker.condition.encode import Conditioner
from trt_worker.condition.source import encode_source
from trt_worker.condition.tokenizer import ClipTokenizer
from trt_worker.decode.decoder import Decoder
from trt_worker.plan.route import denoiser_buckets
from trt_worker.runtime.engine_cache import EngineCache

Latent = NDArray[np.float32]


class Networks:
    """The networks of all models, loaded when they are needed and within the device's memory.

    Args:
        budget: bytes that engines may take together.
        in_use: engines of the step that is under way.
        loading, loaded: told what is loaded, before it is, for it may take minutes, and once it is.
        closed: told each engine that was closed for want of room.
    """

    def __init__(
        self,
        budget: int,
        *,
        in_use: Callable[[], Collection[Engine]],
        loading: Callable[[EngineSpec], None],
        loaded: Callable[[EngineSpec], None],
        closed: Callable[[Engine], None],
    ) -> None:
        self.loads = 0  # engines loaded so far
        self._loading = loading
        self._closed = closed
        self._cache = EngineCache(budget, in_use=in_use, loading=self._load, loaded=loaded, closed=self._forget)
        self._conditioners: dict[Engine, Conditioner] = {}
        self._decoders: dict[Engine, Decoder] = {}

    @property
    def models(self) -> frozenset[str]:
        """Models of which something is in memory."""
        return self._cache.models

    @property
    def load_times(self) -> Mapping[tuple[str, str], float]:
        """Seconds that loading all that a job needs takes, by backend and model, of whatever was loaded before."""
        return {
            (backend, model): sum(
                self._cache.usual_load_seconds(backend, model, component)
                for component in (Component.TEXT_ENCODER, Component.DENOISER, Component.VAE_DECODER)
            )
            for backend, model in self._cache.loaded_before
        }

    def switch_seconds(self, key: BatchKey) -> float:
        """Until the networks are in memory that images of a batch still need: their prompts are encoded already."""
        components = (Component.DENOISER, Component.VAE_DECODER)
        return sum(self._cache.load_seconds(key.backend, key.model, component) for component in components)

    def free_idle(self) -> int:
        """Give back everything that is not in use. Returns: networks that were closed."""
        return self._cache.free_idle()

    def conditioner(self, model: Model, backend: EngineBackend) -> Conditioner:
        """What encodes a model's prompts. Raises: EngineError."""
        engine = self._engine(model, backend, Component.TEXT_ENCODER, model.native_width, model.native_height)
        if engine not in self._conditioners:
            self._conditioners[engine] = Conditioner(engine, ClipTokenizer(model.vocab, model.merges))
        return self._conditioners[engine]

    def encode(self, model: Model, backend: EngineBackend, size: BatchKey, source: bytes, *, crop: bool) -> Latent:
        """A source image as a latent, float32 [channels, height, width]. Raises: BadSourceImage, EngineError."""
        engine = self._engine(model, backend, Component.VAE_ENCODER, size.width, size.height)
        engine.inputs["pixels"][0] = encode_source(source, size.width, size.height, crop)
        engine.run(1)
        latent: Latent = engine.outputs["latent"][0].copy()
        if not np.isfinite(latent).all():
            raise EngineFault(f"{engine.spec.label}: the encoded source image holds values that are not finite")
        return latent

    def denoiser(
        self, model: Model, backend: EngineBackend, size: BatchKey, images: int, tokens: int = CLIP_TOKENS
    ) -> Engine:
        """The denoiser for some images at a time, both halves of their guidance; for fewer where memory is short, or
        no engine takes as many.

        Raises: EngineError.
        """
        buckets = denoiser_buckets(size.width, size.height, images, tokens)
        specs = [EngineSpec(model=model, component=Component.DENOISER, bucket=bucket) for bucket in buckets]
        refusals = [backend.refuses(spec) for spec in specs]
        if all(refusals):
            raise EngineRefused(f"{backend.name}: {refusals[-1]}")
        return self._cache.get(backend, [spec for spec, refused in zip(specs, refusals, strict=True) if not refused])

    def refuses(self, model: Model, backend: EngineBackend, size: BatchKey, tokens: int) -> str | None:
        """Why no denoiser takes contexts of a length, not even for one image at a time; None: one does."""
        smallest = denoiser_buckets(size.width, size.height, 1, tokens)[0]
        return backend.refuses(EngineSpec(model=model, component=Component.DENOISER, bucket=smallest))

    def decoder(self, model: Model, backend: EngineBackend, size: BatchKey) -> Decoder:
        """What makes pictures of a size. Raises: EngineError."""
        engine = self._engine(model, backend, Component.VAE_DECODER, size.width, size.height)
        if engine not in self._decoders:
            self._decoders[engine] = Decoder(engine)
        return self._decoders[engine]

    def _engine(self, model: Model, backend: EngineBackend, component: Component, width: int, height: int) -> Engine:
        bucket = Bucket(width=width, height=height, rows=1)
        return self._cache.get(backend, [EngineSpec(model=model, component=component, bucket=bucket)])

    def _load(self, spec: EngineSpec) -> None:
        self.loads += 1
        self._loading(spec)

    def _forget(self, engine: Engine) -> None:
        self._conditioners.pop(engine, None)
        self._decoders.pop(engine, None)
        self._closed(engine)
