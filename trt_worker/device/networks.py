"""What a device's loop asks of its models' networks: contexts of prompts, latents of pictures, denoisers, pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from loguru import logger

from trt_engines.architectures.prompting import TextEncoding, Vocabulary
from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.devices.device import Device, Stream
from trt_engines.errors import EngineRefused, OutOfMemory
from trt_engines.model import Model
from trt_engines.residency import Memory
from trt_engines.sessions.host_calls import HostCalls
from trt_engines.sessions.tiled_calls import TiledCalls
from trt_engines.tiles import buckets_whole_or_tile
from trt_engines.vocabularies import byte_pairs
from trt_worker.batch.admission import BatchKey
from trt_worker.condition.encode import Conditioner
from trt_worker.condition.prompt import PromptEncoding
from trt_worker.condition.source import SourceEncoder
from trt_worker.condition.tokenizer import clip_tokenizer
from trt_worker.decode.decoder import Decoded, Decoder, device_bytes
from trt_worker.decode.tiled import TiledDecoder
from trt_worker.device.engine_cache import EngineCache
from trt_worker.plan.route import denoiser_buckets

Tag = TypeVar("Tag")

MOST_CHUNKS = 4
"""Chunks of prompts that a text encoder takes in one call, where its engine does: hardly a prompt has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What runs side by side on one device."""

    condition: Stream  # text encoders and VAE encoders
    denoise: tuple[Stream, ...]
    decode: Stream
    copies: Stream  # of pictures to the host


class Networks(Generic[Tag]):
    """The networks of all models, loaded when they are needed and within the device's memory.

    Args:
        budgets: bytes that engines, batches and pictures may take together, of each memory.
        slots: pictures of a size that may be on their way at once.
        denoise_streams: batches that may step at the same time.
        in_use: engines of the step that is under way.
        loading, loaded: told what is loaded, before it is, for it may take minutes, and once it is.
        closing: told each engine that is closed for want of room, before it is.
        clock: seconds.
    """

    def __init__(
        self,
        budgets: Mapping[Memory, int],
        *,
        slots: int,
        denoise_streams: int,
        in_use: Callable[[], Collection[Engine]],
        loading: Callable[[EngineSpec], None],
        loaded: Callable[[EngineSpec], None],
        closing: Callable[[Engine], None],
        clock: Callable[[], float],
    ) -> None:
        self.loads = 0  # engines loaded so far
        self._slots = slots
        self._denoise_streams = denoise_streams
        self._in_use = in_use
        self._held: Engine | None = None  # while room is made for what belongs to it
        self._loading = loading
        self._closing = closing
        self._caches = {
            memory: EngineCache(
                budget,
                in_use=self._engines_in_use,
                loading=self._load,
                loaded=loaded,
                closing=self._forget,
                clock=clock,
            )
            for memory, budget in budgets.items()
        }
        self._models: dict[str, Model] = {}  # that were asked for, by name
        self._memories: dict[str, Memory] = {}  # of backends that were used, by name
        self._streams: dict[str, Streams] = {}
        self._stream_of: dict[BatchKey, Stream] = {}
        self._conditioners: dict[Engine, Conditioner] = {}
        # By engine and size of the picture: tiles of one size serve pictures of many.
        self._source_encoders: dict[tuple[Engine, int, int], SourceEncoder] = {}
        self._decoders: dict[tuple[Engine, int, int], Decoder[Tag] | TiledDecoder[Tag]] = {}
        self._too_large: dict[tuple[str, BatchKey], int] = {}  # sizes there was no room for, whole and tiles
        self._told_tiles: set[tuple[str, BatchKey, Bucket]] = set()
        self._left: list[Decoded[Tag]] = []  # pictures of decoders that were closed

    @property
    def models(self) -> frozenset[str]:
        """Models of which something is in memory."""
        return frozenset().union(*(cache.models for cache in self._caches.values()))

    @property
    def load_times(self) -> Mapping[tuple[str, str], float]:
        """Seconds that loading all that a job needs takes, by backend and model, of whatever was loaded before."""
        return {
            (backend, model): sum(
                cache.usual_load_seconds(backend, model, network) for network in self._models[model].facts.needed
            )
            for cache in self._caches.values()
            for backend, model in cache.loaded_before
        }

    def switch_seconds(self, key: BatchKey) -> float:
        """Until the networks are in memory that images of a batch still need: their prompts are encoded already."""
        cache = self._caches[self._memories[key.backend]]
        facts = self._models[key.model].facts
        networks = (*(one.denoiser for one in facts.passes), facts.decoder)
        return sum(cache.load_seconds(key.backend, key.model, network) for network in networks)

    def has_denoiser(self, key: BatchKey) -> bool:
        """Whether images of a batch can step without another network's having to be loaded."""
        return self._caches[self._memories[key.backend]].holds(
            key.backend, key.model, self._models[key.model].facts.passes[0].denoiser
        )

    @property
    def taken(self) -> int:
        """Bytes that engines, batches and pictures take, as far as it is known."""
        return sum(cache.taken for cache in self._caches.values())

    def reserve(self, backend: EngineBackend, batch: BatchKey, size: int) -> None:
        """Keep room for what a batch is about to allocate. Args: size: bytes.

        Raises: OutOfMemory: it does not fit beside the engines in use.
        """
        self._cache_of(backend).reserve(batch, size, f"a batch of {batch.model} at {batch.width}x{batch.height}")

    def release(self, batch: BatchKey) -> None:
        """A batch's memory was given back."""
        for cache in self._caches.values():
            cache.release(batch)

    def free_idle(self) -> int:
        """Give back everything that is not in use. Returns: networks that were closed."""
        return sum(cache.free_idle() for cache in self._caches.values())

    def denoise_stream(self, backend: EngineBackend, key: BatchKey) -> Stream:
        """Where batches of a size step, always: sizes are spread over the streams in the order in which they come.

        Raises: DeviceUnavailable.
        """
        if key not in self._stream_of:
            known = sum(one.backend == key.backend for one in self._stream_of)
            self._stream_of[key] = self._streams_of(backend).denoise[known % self._denoise_streams]
        return self._stream_of[key]

    def encode(
        self, model: Model, backend: EngineBackend, prompts: Sequence[str], clip_skip: int
    ) -> tuple[PromptEncoding, ...]:
        """Begin to encode some prompts, all of them with one text encoder before the next is loaded.

        Args: clip_skip: see `Conditioner.begin`.
        Raises: EngineError.
        """
        prompting = model.facts.prompting
        by_encoder = []
        for encoding in prompting.encoders:
            conditioner = self._conditioner(model, backend, encoding)
            by_encoder.append([conditioner.begin(prompt, clip_skip) for prompt in prompts])
        return tuple(PromptEncoding(prompting, encodings) for encodings in zip(*by_encoder, strict=True))

    def _conditioner(self, model: Model, backend: EngineBackend, encoding: TextEncoding) -> Conditioner:
        """Raises: EngineError."""
        stream = self._streams_of(backend).condition
        chunks = [MOST_CHUNKS >> shift for shift in range(MOST_CHUNKS.bit_length())]
        engine = self._engine(
            model, backend, encoding.network, model.native_width, model.native_height, stream, rows=chunks
        )
        if engine not in self._conditioners:
            calls = HostCalls(backend.device, engine)
            tokenizer = clip_tokenizer(*byte_pairs(Vocabulary(encoding.vocabulary)))
            self._conditioners[engine] = Conditioner(calls, tokenizer, encoding)
        return self._conditioners[engine]

    def source_encoder(self, model: Model, backend: EngineBackend, size: BatchKey) -> SourceEncoder:
        """What makes latents of source images of a size, in tiles where it must be. Raises: EngineError."""
        stream = self._streams_of(backend).condition
        engine = self._autoencoder(model, backend, model.facts.encoder, size, stream)
        key = engine, size.width, size.height
        if key not in self._source_encoders:
            if _is_whole(engine, size):
                calls: HostCalls | TiledCalls = HostCalls(backend.device, engine)
            else:
                calls = TiledCalls(backend.device, engine, size.width, size.height)
            self._source_encoders[key] = SourceEncoder(calls, size.width, size.height)
        return self._source_encoders[key]

    def denoiser(
        self,
        model: Model,
        backend: EngineBackend,
        size: BatchKey,
        images: int,
        tokens: int | None = None,
        rows: int = 1,
    ) -> Engine:
        """The denoiser for some images at a time, with all engine rows of each; for fewer where memory is short, or
        no engine takes as many.

        Args:
            tokens: of a row; None: the shortest length that buckets of the model are made for.
            rows: that it should take; a smaller one is only given when no such engine finds room.
        Raises: EngineError.
        """
        self._models[model.name] = model
        buckets = denoiser_buckets(model, size.width, size.height, images, tokens)
        network = model.facts.passes[0].denoiser
        specs = [EngineSpec(model=model, network=network, bucket=bucket) for bucket in buckets]
        refusals = [backend.refuses(spec) for spec in specs]
        if all(refusals):
            raise EngineRefused(f"{backend.name}: {refusals[-1]}")
        fit = [spec for spec, refused in zip(specs, refusals, strict=True) if not refused]
        stream, cache = self.denoise_stream(backend, size), self._cache_of(backend)
        enough = [spec for spec in fit if spec.bucket.rows >= rows]
        fewer = [spec for spec in fit if spec.bucket.rows < rows]
        if enough and fewer:
            try:
                return cache.get(backend, enough, stream)
            except OutOfMemory as error:
                logger.info("{}. The rows take several calls of a smaller one.", error)
        return cache.get(backend, fewer or enough, stream)

    def refuses(self, model: Model, backend: EngineBackend, size: BatchKey, tokens: int) -> str | None:
        """Why no denoiser takes contexts of a length, not even for one image at a time; None: one does."""
        smallest = denoiser_buckets(model, size.width, size.height, 1, tokens)[0]
        return backend.refuses(EngineSpec(model=model, network=model.facts.passes[0].denoiser, bucket=smallest))

    def decoder(self, model: Model, backend: EngineBackend, size: BatchKey) -> Decoder[Tag] | TiledDecoder[Tag]:
        """What makes pictures of a size, in tiles where it must be. Raises: EngineError."""
        streams = self._streams_of(backend)
        engine = self._autoencoder(model, backend, model.facts.decoder, size, streams.decode)
        key = engine, size.width, size.height
        if key in self._decoders:
            return self._decoders[key]
        if not _is_whole(engine, size):
            self._decoders[key] = TiledDecoder(backend.device, engine, size.width, size.height, self._slots)
            return self._decoders[key]
        self._held = engine
        try:
            self._cache_of(backend).reserve(engine, device_bytes(engine, self._slots), f"pictures of {engine.label}")
        finally:
            self._held = None
        self._decoders[key] = Decoder(backend.device, engine, streams.copies, self._slots)
        return self._decoders[key]

    def smaller_tiles(self, model: Model, backend: EngineBackend, network: str, size: BatchKey) -> bool:
        """There is no room for an autoencoder at a size, whatever is closed: from now on it gets smaller tiles.

        It stays so, for a picture must not depend on what else is in memory. Returns: False: there are none.
        """
        tried = self._too_large.get((network, size), 0) + 1
        left = list(self._autoencoder_specs(model, backend, network, size))[1:]
        if left:
            self._too_large[network, size] = tried
        return bool(left)

    def decoded(self) -> list[Decoded[Tag]]:
        """Pictures that have come back, each given once. Never waits."""
        back, self._left = self._left, []
        for decoder in self._decoders.values():
            back += decoder.finished()
        return back

    def wait_for_picture(self) -> None:
        """Wait until a picture has come back, if any is on its way."""
        for decoder in self._decoders.values():
            if decoder.running:
                decoder.wait()
                return

    def _cache_of(self, backend: EngineBackend) -> EngineCache:
        self._memories[backend.name] = backend.memory
        return self._caches[backend.memory]

    def _streams_of(self, backend: EngineBackend) -> Streams:
        if backend.name not in self._streams:
            device: Device = backend.device
            denoise = [device.create_stream(f"denoise {number}") for number in range(self._denoise_streams)]
            self._streams[backend.name] = Streams(
                condition=device.create_stream("condition"),
                denoise=tuple(denoise),
                decode=device.create_stream("decode"),
                copies=device.create_stream("copies"),
            )
        return self._streams[backend.name]

    def _engine(
        self,
        model: Model,
        backend: EngineBackend,
        network: str,
        width: int,
        height: int,
        stream: Stream,
        rows: Sequence[int] = (1,),
    ) -> Engine:
        """Args: rows: of a call, the preferred number first. The last is asked for even where it is refused."""
        self._models[model.name] = model
        tokens = model.facts.tokens[0]
        specs = [
            EngineSpec(
                model=model, network=network, bucket=Bucket(width=width, height=height, rows=count, tokens=tokens)
            )
            for count in rows
        ]
        fit = [spec for spec in specs if backend.refuses(spec) is None]
        return self._cache_of(backend).get(backend, fit or specs[-1:], stream)

    def _autoencoder(
        self, model: Model, backend: EngineBackend, network: str, size: BatchKey, stream: Stream
    ) -> Engine:
        """An engine of an autoencoder for whole pictures of a size, or else for tiles of them."""
        self._models[model.name] = model
        spec = next(self._autoencoder_specs(model, backend, network, size))
        engine = self._cache_of(backend).get(backend, [spec], stream)
        told = network, size, spec.bucket
        if not _is_whole(engine, size) and told not in self._told_tiles:
            self._told_tiles.add(told)
            logger.warning(
                "{} on {} takes {}x{} in tiles of {}x{}: it has no room or engine for the whole. Colours may differ.",
                f"{model.name}/{network}",
                backend.name,
                size.width,
                size.height,
                spec.bucket.width,
                spec.bucket.height,
            )
        return engine

    def _autoencoder_specs(
        self, model: Model, backend: EngineBackend, network: str, size: BatchKey
    ) -> Iterator[EngineSpec]:
        """Whole pictures and tiles that a backend takes, without those there was no room for.

        They are looked for one after another: for most pictures the first is all that is asked for.
        Raises: EngineRefused: it takes none.
        """
        buckets = buckets_whole_or_tile(size.width, size.height, model.facts.size_step)
        refusals, taken = list[str](), 0
        for spec in (EngineSpec(model=model, network=network, bucket=bucket) for bucket in buckets):
            if (refusal := backend.refuses(spec)) is not None:
                refusals.append(refusal)
                continue
            taken += 1
            if taken > self._too_large.get((network, size), 0):
                yield spec
        if not taken:
            raise EngineRefused(f"{backend.name}: {refusals[0]}")

    def _engines_in_use(self) -> Collection[Engine]:
        return [*self._in_use(), self._held] if self._held is not None else self._in_use()

    def _load(self, spec: EngineSpec) -> None:
        self.loads += 1
        self._loading(spec)

    def _forget(self, engine: Engine) -> None:
        """Whatever is under way in an engine is waited for, and what it gave is kept."""
        if (conditioner := self._conditioners.pop(engine, None)) is not None:
            conditioner.calls.close()
        for key in [key for key in self._source_encoders if key[0] is engine]:
            self._source_encoders.pop(key).calls.close()
        for key in [key for key in self._decoders if key[0] is engine]:
            decoder = self._decoders.pop(key)
            decoder.close()
            self._left += decoder.finished()
        for cache in self._caches.values():
            cache.release(engine)
        self._closing(engine)


def _is_whole(engine: Engine, size: BatchKey) -> bool:
    """Whether an autoencoder's engine takes whole pictures of a size."""
    return engine.tensor("pixels").shape[-2:] == (size.height, size.width)
