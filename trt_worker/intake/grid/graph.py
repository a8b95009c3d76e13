"""A ComfyUI graph in API form: nodes, the links between them, and the literals they end in.

ComfyUI runs what its output nodes ask for, and what those ask for, and leaves the rest alone. So does this reader: a
node that nobody asks for may be of any class, and an entry that nobody asks for need not even be a node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeGuard

from trt_worker.errors import BadJob, UnservableJob

_SHOWN = 80  # characters

MOST_LINKS = 4096
"""Links that are followed in one graph; the largest recipe of the grid takes some dozen."""

OUTPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "PrimitiveInt": ("INT",),
        "PrimitiveFloat": ("FLOAT",),
        "PrimitiveString": ("STRING",),
        "PrimitiveStringMultiline": ("STRING",),
        "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
        "UNETLoader": ("MODEL",),
        "CLIPLoader": ("CLIP",),
        "DualCLIPLoader": ("CLIP",),
        "VAELoader": ("VAE",),
        "ModelSamplingAuraFlow": ("MODEL",),
        "ModelSamplingSD3": ("MODEL",),
        "CLIPSetLastLayer": ("CLIP",),
        "CLIPTextEncode": ("CONDITIONING",),
        "ConditioningZeroOut": ("CONDITIONING",),
        "EmptyLatentImage": ("LATENT",),
        "EmptySD3LatentImage": ("LATENT",),
        "EmptyFlux2LatentImage": ("LATENT",),
        "LoadImage": ("IMAGE", "MASK"),
        "ImageScale": ("IMAGE",),
        "VAEEncode": ("LATENT",),
        "RandomNoise": ("NOISE",),
        "KSamplerSelect": ("SAMPLER",),
        "BasicScheduler": ("SIGMAS",),
        "Flux2Scheduler": ("SIGMAS",),
        "SplitSigmasDenoise": ("SIGMAS", "SIGMAS"),
        "CFGGuider": ("GUIDER",),
        "BasicGuider": ("GUIDER",),
        "KSampler": ("LATENT",),
        "KSamplerAdvanced": ("LATENT",),
        "SamplerCustomAdvanced": ("LATENT", "LATENT"),
        "VAEDecode": ("IMAGE",),
        "SaveImage": ("IMAGE",),
        "SaveImageWebsocket": (),
        "PreviewImage": ("IMAGE",),
    }
)
"""What the nodes that are understood give, slot by slot. Source: ComfyUI's node definitions."""


class UnreadableRecipe(UnservableJob):
    """The model's graph is built in a way that this worker does not understand: no job with it can be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node."""

    id: str
    kind: str  # ComfyUI's class_type
    inputs: Mapping[str, Any]

    def __str__(self) -> str:
        return f"node {quoted(self.id)} ({quoted(self.kind)[1:-1]})"


class Graph:
    """A graph that is read along its links, as many of them as `MOST_LINKS`.

    Values become numbers and text as ComfyUI makes them, before it looks at their range: a whole number is
    int(value), a number float(value), text str(value). Source: `validate_inputs` in ComfyUI's execution.py.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """
        Args:
            spec: node id -> class_type and inputs.
        """
        self._spec = spec
        self._followed = 0
        self._met: dict[str, Node] = {}

    def of(self, *kinds: str) -> list[Node]:
        """All nodes of some classes, whether anybody asks for them or not."""
        return [
            self._node(node_id)
            for node_id, body in self._spec.items()
            if isinstance(body, dict) and body.get("class_type") in kinds
        ]

    def met(self, *kinds: str) -> list[Node]:
        """The nodes of some classes that gave something so far."""
        return [node for node in self._met.values() if node.kind in kinds]

    def producer(self, node: Node, name: str, *types: str) -> tuple[Node, int]:
        """The node that gives an input, and the slot it gives it from.

        Args:
            types: of ComfyUI; the slot must give one of them.
        Raises: BadJob: nobody gives it, or something of another type; or the links go round in a circle.
            UnreadableRecipe: a node of a class that is not understood gives it.
        """
        value = node.inputs.get(name)
        if not is_link(value):
            raise BadJob(f"{node}: input {name!r} is not connected to a node")
        self._followed += 1
        if self._followed > MOST_LINKS:
            raise BadJob(f"{node}: it depends on itself, or on more than {MOST_LINKS} links")
        if value[0] not in self._spec:
            raise BadJob(f"{node}: input {name!r} comes from node {quoted(value[0])}, which does not exist")
        source, slot = self._node(value[0]), value[1]
        given = OUTPUTS.get(source.kind)
        if given is None:
            raise UnreadableRecipe(f"{source}: this worker does not know the class {quoted(source.kind)}")
        if not 0 <= slot < len(given):
            raise BadJob(f"{node}: input {name!r} asks for slot {slot} of {source}, which has {len(given)}")
        if given[slot] not in types:
            raise BadJob(f"{node}: input {name!r} must be {' or '.join(types)}, but {source} gives {given[slot]}")
        self._met[source.id] = source
        return source, slot

    def choice(self, node: Node, name: str) -> str:
        """One name out of a list that the node's class has. Raises: BadJob: it is missing or no text."""
        value = self._literal(node, name, "STRING")
        if not isinstance(value, str):
            raise BadJob(f"{node}: input {name!r} must be a name, not {type(value).__name__}")
        return value

    def text(self, node: Node, name: str) -> str:
        """A string input. Raises: BadJob: it is missing or a structure."""
        value = self._literal(node, name, "STRING")
        if isinstance(value, list | dict):
            raise BadJob(f"{node}: input {name!r} must be text, not {type(value).__name__}")
        return str(value)

    def number(self, node: Node, name: str, least: float, most: float, default: float | None = None) -> float:
        """A number input. Raises: BadJob: it is missing, no number, or out of range."""
        value = self._literal(node, name, "FLOAT", "INT", default=default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadJob(f"{node}: input {name!r} must be a number, not {_told(value)}") from error
        if not math.isfinite(number) or not least <= number <= most:
            raise BadJob(f"{node}: input {name!r} is out of range; {least:g} to {most:g} are allowed")
        return number

    def whole(self, node: Node, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number input; a fraction is cut off. Raises: BadJob: as `number`."""
        value = self._literal(node, name, "INT", "FLOAT", default=default)
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadJob(f"{node}: input {name!r} must be a whole number, not {_told(value)}") from error
        if not least <= number <= most:
            raise BadJob(f"{node}: input {name!r} is out of range; {least} to {most} are allowed")
        return number

    def _literal(self, node: Node, name: str, *types: str, default: Any = None) -> Any:
        """What an input is set to, through the primitive nodes before it."""
        value = node.inputs.get(name, default)
        holder = node
        while is_link(value):
            holder, _ = self.producer(holder, name, *types)
            name = "value"
            value = holder.inputs.get(name)
        if value is None:
            raise BadJob(f"{holder}: input {name!r} is missing")
        return value

    def _node(self, node_id: str) -> Node:
        body = self._spec[node_id]
        kind = body.get("class_type") if isinstance(body, dict) else None
        inputs = body.get("inputs") if isinstance(body, dict) else None
        if not isinstance(kind, str) or not isinstance(inputs, dict):
            raise BadJob(f"node {quoted(node_id)}: it needs a class_type and inputs")
        return Node(id=node_id, kind=kind, inputs=inputs)


def is_link(value: object) -> TypeGuard[list[Any]]:
    """Whether an input is [node id, slot]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def read_graph(spec: object) -> Graph:
    """A graph to read. Raises: BadJob: it is none."""
    if not isinstance(spec, dict) or not spec:
        raise BadJob("the recipe's graph is empty or no JSON object")
    return Graph(spec)


def quoted(text: str) -> str:
    """Text of the graph as messages show it: quoted, cut, and nothing in it but printable ASCII."""
    return ascii(text[:_SHOWN])


def _told(value: object) -> str:
    return quoted(value) if isinstance(value, str) else type(value).__name__
