"""What a ComfyUI graph would draw, read off its nodes: the grid's recipe jobs say it nowhere else.

The top-level figures of a recipe job are the coordinator's guesses from the model's name; only the graph is true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trt_engines.architectures.noise_levels import Prediction, flux2_mu
from trt_engines.model import Model
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.intake.grid.graph import Graph, Node, UnreadableRecipe, quoted, read_graph
from trt_worker.job import SamplerNode, SourceFit
from trt_worker.sampler_names import canonical_sampler, canonical_scheduler

LARGEST_SIDE = 3072  # pixels
SMALLEST_SIDE = 64
MOST_STEPS = 500
MOST_GUIDANCE = 100.0
LEAST_DENOISE = 0.01
SEED_LIMIT = 2**64
_LARGEST_SCHEDULED = 16_384  # pixels; a schedule may be made for another size than is drawn

_FILES = {
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "CLIPLoader": ("clip_name",),
    "DualCLIPLoader": ("clip_name1", "clip_name2"),
    "VAELoader": ("vae_name",),
}
"""The inputs of the nodes that open files."""

_SAVES = ("SaveImage", "SaveImageWebsocket")
_PREVIEWS = ("PreviewImage",)
_SHIFTS = ("ModelSamplingAuraFlow", "ModelSamplingSD3")
_EMPTY = {"EmptyLatentImage": 8, "EmptySD3LatentImage": 8, "EmptyFlux2LatentImage": 16}
"""Pixels of a side that one cell of the latent stands for; what is left of a side is cut off.

Source: ComfyUI's node definitions, which make a latent of height // 8 by width // 8 cells, or // 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One image as its graph describes it."""

    prompt: str
    negative_prompt: str
    size: tuple[int, int] | None  # width and height in pixels; None: those of the source image
    steps: int
    guidance: float
    sampler: str  # canonical name
    scheduler: str  # canonical name
    sampler_node: SamplerNode = SamplerNode.KSAMPLER
    end_step: int | None = None  # see `JobSpec`
    strength: float
    clip_skip: int
    shift: float | None
    seed: int
    takes_source: bool
    source_fit: SourceFit = SourceFit.STRETCH


@dataclass(frozen=True, slots=True, kw_only=True)
class _Latent:
    size: tuple[int, int] | None
    takes_source: bool
    source_fit: SourceFit = SourceFit.STRETCH


@dataclass(frozen=True, slots=True, kw_only=True)
class _Schedule:
    scheduler: str
    steps: int  # that are run
    strength: float  # so that `steps` are a part of int(steps / strength)
    shift: float | None
    node: SamplerNode
    end: int | None = None  # of KSamplerAdvanced


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampling:
    seed: int
    sampler: str
    schedule: _Schedule
    guidance: float
    positive: Node
    negative: Node | None
    latent: _Latent


def read_recipe(spec: object, model: Model) -> Drawing:
    """The image a graph would draw.

    Raises: BadJob: the graph is defective: a missing node, a circle, a value of the wrong type or out of range.
        UnreadableRecipe: it holds a node, a file or a connection that this worker does not serve.
        UnservableJob: a value that customers can choose is not served; the recipe may be fine with another.
    """
    graph = read_graph(spec)
    decode = _decoder(graph)
    _vae(graph, decode)
    sampling = _sampling(graph, graph.producer(decode, "samples", "LATENT")[0])
    schedule, latent = sampling.schedule, sampling.latent
    if schedule.shift is not None and model.levels.prediction is not Prediction.FLOW:
        raise UnreadableRecipe(f"the graph shifts time as for a flow model, which {model.name} is not")
    if schedule.strength < 1 and not latent.takes_source:
        raise UnservableJob("the graph runs part of a schedule on an empty latent, which is not served")
    prompt, clip_skip = _encoded(graph, sampling.positive, model)
    negative = ""
    if sampling.negative is not None and sampling.guidance != 1.0:  # at 1 the negative side has no effect
        if sampling.negative.kind == "ConditioningZeroOut":
            raise UnservableJob(f"{sampling.negative}: zeroed, which is served only at guidance 1, without an effect")
        negative, other_skip = _encoded(graph, sampling.negative, model)
        if other_skip != clip_skip:
            raise UnreadableRecipe(f"{sampling.negative}: positive and negative prompt stop at different CLIP layers")
    _check_files(graph, model)
    return Drawing(
        prompt=prompt,
        negative_prompt=negative,
        size=latent.size,
        steps=schedule.steps,
        guidance=sampling.guidance,
        sampler=sampling.sampler,
        scheduler=schedule.scheduler,
        sampler_node=schedule.node,
        end_step=schedule.end,
        strength=schedule.strength,
        clip_skip=clip_skip,
        shift=schedule.shift,
        seed=sampling.seed,
        takes_source=latent.takes_source,
        source_fit=latent.source_fit,
    )


def _check_files(graph: Graph, model: Model) -> None:
    """Whether the files that were met on the way, and not those of nodes that nobody asks for, are the model's."""
    for node in graph.met(*_FILES):
        for name in _FILES[node.kind]:
            file = graph.choice(node, name)
            if file not in model.checkpoint_files:
                raise UnreadableRecipe(f"{node}: asks for the file {quoted(file)}, which {model.name} is not made of")


def _decoder(graph: Graph) -> Node:
    """The node that makes the pixels of what is saved. Previews count only where nothing is saved."""
    outputs = graph.of(*_SAVES) or graph.of(*_PREVIEWS)
    if not outputs:
        raise UnreadableRecipe(f"the recipe's graph saves no image with {' or '.join((*_SAVES, *_PREVIEWS))}")
    decoders: dict[str, Node] = {}
    passed: set[str] = set()
    for output in outputs:
        source = output
        while source.kind in {*_SAVES, *_PREVIEWS} and source.id not in passed:  # they hand on what they show
            passed.add(source.id)
            source, _ = graph.producer(source, "images", "IMAGE")
        if source.kind == "VAEDecode":
            decoders[source.id] = source
        elif source.id not in passed:
            raise UnreadableRecipe(f"{output}: its image comes from {source}; only decoded latents are served")
    if not decoders:
        raise BadJob(f"{outputs[0]}: it depends on itself")
    if len(decoders) > 1:
        raise UnreadableRecipe(f"the recipe's graph saves {len(decoders)} different images")
    return next(iter(decoders.values()))


def _sampling(graph: Graph, node: Node) -> _Sampling:
    if node.kind == "KSampler":
        return _simple(graph, node)
    if node.kind == "KSamplerAdvanced":
        return _advanced(graph, node)
    if node.kind == "SamplerCustomAdvanced":
        return _custom(graph, node)
    raise UnreadableRecipe(f"{node}: a latent from here is decoded without being sampled")


def _simple(graph: Graph, node: Node) -> _Sampling:
    steps = graph.whole(node, "steps", 1, MOST_STEPS)
    return _classic(graph, node, "seed", SamplerNode.KSAMPLER, steps, _denoise(graph, node))


def _advanced(graph: Graph, node: Node) -> _Sampling:
    total = graph.whole(node, "steps", 1, MOST_STEPS)
    start = graph.whole(node, "start_at_step", 0, 10_000, 0)
    end = graph.whole(node, "end_at_step", 0, 10_000, 10_000)
    if node.inputs.get("add_noise", "enable") != "enable":
        raise UnreadableRecipe(f"{node}: schedules that are split over several samplers are not served")
    if end < total:
        raise UnservableJob(f"{node}: stops at step {end} of {total}; only schedules that run to their end are served")
    if start >= total:
        raise BadJob(f"{node}: starts at step {start} of {total}")
    leaves_noise = node.inputs.get("return_with_leftover_noise", "disable") != "disable"
    if (
        leaves_noise and end < 10_000 and graph.choice(node, "scheduler") == "ddim_uniform"
    ):  # gives more steps than asked
        raise UnservableJob(f"{node}: may stop before the schedule's end and leave its noise, which is not served")
    strength = _share(total - start, total)
    return _classic(graph, node, "noise_seed", SamplerNode.KSAMPLER_ADVANCED, total - start, strength, end)


def _classic(
    graph: Graph, node: Node, seed: str, kind: SamplerNode, steps: int, strength: float, end: int | None = None
) -> _Sampling:
    """What KSampler and KSamplerAdvanced have in common."""
    return _Sampling(
        seed=graph.whole(node, seed, 0, SEED_LIMIT - 1),
        sampler=canonical_sampler(graph.choice(node, "sampler_name")),
        schedule=_Schedule(
            scheduler=canonical_scheduler(graph.choice(node, "scheduler")),
            steps=steps,
            strength=strength,
            shift=_shift(graph, node),
            node=kind,
            end=end,
        ),
        guidance=graph.number(node, "cfg", 0.0, MOST_GUIDANCE),
        positive=graph.producer(node, "positive", "CONDITIONING")[0],
        negative=graph.producer(node, "negative", "CONDITIONING")[0],
        latent=_latent(graph, node),
    )


def _custom(graph: Graph, node: Node) -> _Sampling:
    noise, _ = graph.producer(node, "noise", "NOISE")
    chosen, _ = graph.producer(node, "sampler", "SAMPLER")
    guider, _ = graph.producer(node, "guider", "GUIDER")
    shift = _shift(graph, guider)
    schedule = _schedule(graph, node, shift)
    guided = guider.kind == "CFGGuider"
    return _Sampling(
        seed=graph.whole(noise, "noise_seed", 0, SEED_LIMIT - 1),
        sampler=canonical_sampler(graph.choice(chosen, "sampler_name")),
        schedule=schedule,
        guidance=graph.number(guider, "cfg", 0.0, MOST_GUIDANCE) if guided else 1.0,
        positive=graph.producer(guider, "positive" if guided else "conditioning", "CONDITIONING")[0],
        negative=graph.producer(guider, "negative", "CONDITIONING")[0] if guided else None,
        latent=_latent(graph, node),
    )


def _schedule(graph: Graph, node: Node, shift: float | None) -> _Schedule:
    """The noise levels of a SamplerCustomAdvanced.

    Args:
        shift: time shift of the model that is sampled.
    """
    source, slot = graph.producer(node, "sigmas", "SIGMAS")
    kept = 1.0
    split: Node | None = None
    if source.kind == "SplitSigmasDenoise":
        if slot != 1:
            raise UnreadableRecipe(f"{source}: only the lower part of a split schedule is served")
        split = source
        kept = _denoise(graph, source)
        source, slot = graph.producer(source, "sigmas", "SIGMAS")
    if source.kind == "SplitSigmasDenoise":
        raise UnreadableRecipe(f"{source}: a schedule that is split twice is not served")
    steps = graph.whole(source, "steps", 1, MOST_STEPS)
    if source.kind == "BasicScheduler":
        scheduler = canonical_scheduler(graph.choice(source, "scheduler"))
        strength = _denoise(graph, source)
        if _shift(graph, source) != shift:
            raise UnreadableRecipe(f"{source}: scheduler and guider shift time differently")
    else:  # Flux2Scheduler: even times, shifted; `simple` takes the same times from a flow model's table
        scheduler, strength = "simple", 1.0
        width, height = (graph.whole(source, name, 16, _LARGEST_SCHEDULED) for name in ("width", "height"))
        shift = flux2_shift(width, height, steps)
    total = int(steps / strength)
    if split is not None:
        steps = round(steps * kept)
        if steps < 1:
            raise BadJob(f"{split}: nothing of the schedule is left")
        strength = _share(steps, total)
    return _Schedule(scheduler=scheduler, steps=steps, strength=strength, shift=shift, node=SamplerNode.CUSTOM)


def flux2_shift(width: int, height: int, steps: int) -> float:
    """Time shift of FLUX.2's schedule, as the factor of a rectified flow: exp(mu). Args: see `flux2_mu`."""
    return math.exp(flux2_mu(width, height, steps))


def _share(steps: int, total: int) -> float:
    """The strength whose schedule of int(steps / strength) levels has exactly `total`."""
    strength = steps / total
    return strength if int(steps / strength) == total else math.nextafter(strength, 0.0)


def _denoise(graph: Graph, node: Node) -> float:
    denoise = graph.number(node, "denoise", 0.0, 1.0, 1.0)
    if denoise < LEAST_DENOISE:
        raise BadJob(f"{node}: denoise is {denoise}: nothing would be drawn; {LEAST_DENOISE} to 1 are allowed")
    return denoise


def _shift(graph: Graph, node: Node) -> float | None:
    """Time shift of the model a node uses; the one set last counts."""
    shift = None
    source, _ = graph.producer(node, "model", "MODEL")
    while source.kind in _SHIFTS:
        if shift is None:
            shift = graph.number(source, "shift", 0.01, 100.0)
        source, _ = graph.producer(source, "model", "MODEL")
    return shift


def _encoded(graph: Graph, node: Node, model: Model) -> tuple[str, int]:
    """Text and CLIP layer of a prompt; without a node that names one, the model's own."""
    if node.kind != "CLIPTextEncode":
        raise UnreadableRecipe(f"{node}: a prompt that is no encoded text is not served")
    clip_skip: int | None = None
    source, _ = graph.producer(node, "clip", "CLIP")
    while source.kind == "CLIPSetLastLayer":
        if clip_skip is None:
            clip_skip = -graph.whole(source, "stop_at_clip_layer", -12, -1)
        source, _ = graph.producer(source, "clip", "CLIP")
    return graph.text(node, "text"), clip_skip or model.clip_skip


def _latent(graph: Graph, node: Node) -> _Latent:
    """Where sampling starts. The batch size is left alone: the coordinator asks for n images beside the graph."""
    source, _ = graph.producer(node, "latent_image", "LATENT")
    if source.kind in _EMPTY:
        cell = _EMPTY[source.kind]
        width, height = (graph.whole(source, name, SMALLEST_SIDE, LARGEST_SIDE) for name in ("width", "height"))
        return _Latent(size=(width // cell * cell, height // cell * cell), takes_source=False)
    if source.kind != "VAEEncode":
        raise UnreadableRecipe(f"{node}: starts from {source}; several samplers in a row are not served")
    _vae(graph, source)
    picture, slot = graph.producer(source, "pixels", "IMAGE")
    if picture.kind == "LoadImage" and slot == 0:
        return _Latent(size=None, takes_source=True, source_fit=SourceFit.CUT)
    if picture.kind != "ImageScale":
        raise UnreadableRecipe(f"{source}: encodes what {picture} gives; only the source image is served")
    scaled = picture
    picture, slot = graph.producer(scaled, "image", "IMAGE")
    if picture.kind != "LoadImage" or slot != 0:
        raise UnreadableRecipe(f"{scaled}: scales what {picture} gives; only the source image is served")
    method, crop = graph.choice(scaled, "upscale_method"), graph.choice(scaled, "crop")
    if method != "lanczos" or crop not in {"center", "disabled"}:
        raise UnreadableRecipe(f"{scaled}: scaling by {quoted(method)} with crop {quoted(crop)} is not served")
    size = (_side(graph, scaled, "width"), _side(graph, scaled, "height"))
    fit = SourceFit.COVER if crop == "center" else SourceFit.STRETCH
    return _Latent(size=size, takes_source=True, source_fit=fit)


def _vae(graph: Graph, node: Node) -> None:
    """Its file is checked with all the others; here only that it is a VAE."""
    graph.producer(node, "vae", "VAE")


def _side(graph: Graph, node: Node, name: str) -> int:
    side = graph.whole(node, name, SMALLEST_SIDE, LARGEST_SIDE)
    if side % 8:
        raise UnservableJob(f"{node}: {name} is {side}; a source that is scaled to no multiple of 8 is not served")
    return side


def refusal(spec: object, model: Model) -> str | None:
    """Why the jobs of a recipe cannot be served, or None."""
    try:
        read_recipe(spec, model)
    except BadJob as error:
        return str(error)
    return None
