"""A ComfyUI graph in API form: nodes, the links between them, and the literals they end in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeGuard

from trt_engines.text import shown
from trt_worker.errors import BadJob, UnservableJob

OUTPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "PrimitiveInt": ("VALUE",),
        "PrimitiveFloat": ("VALUE",),
        "PrimitiveString": ("VALUE",),
        "PrimitiveStringMultiline": ("VALUE",),
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
        return f"node {shown(self.id, 80)!r} ({shown(self.kind, 80)})"


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph without cycles, dangling links or nodes that are not understood."""

    nodes: Mapping[str, Node]

    def of(self, *kinds: str) -> list[Node]:
        """All nodes of some kinds."""
        return [node for node in self.nodes.values() if node.kind in kinds]

    def producer(self, node: Node, name: str, type_name: str) -> tuple[Node, int]:
        """Who gives an input, and from which slot.

        Raises: BadJob: nobody does, or something of another type.
        """
        value = node.inputs.get(name)
        if not is_link(value):
            raise BadJob(f"{node}: input {name!r} is not connected to a node")
        source, slot = self.nodes[value[0]], value[1]
        given = OUTPUTS[source.kind]
        if not 0 <= slot < len(given):
            raise BadJob(f"{node}: input {name!r} asks for slot {slot} of {source}, which has {len(given)}")
        if given[slot] != type_name:
            raise BadJob(f"{node}: input {name!r} must be {type_name}, but {source} gives {given[slot]}")
        return source, slot

    def text(self, node: Node, name: str) -> str:
        """A string input. Raises: BadJob: it is missing or something else."""
        value = self._literal(node, name)
        if not isinstance(value, str):
            raise BadJob(f"{node}: input {name!r} must be text, not {type(value).__name__}")
        return value

    def number(self, node: Node, name: str, least: float, most: float, default: float | None = None) -> float:
        """A number input. Raises: BadJob: it is missing, something else, or out of range."""
        value = self._literal(node, name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadJob(f"{node}: input {name!r} must be a number, not {type(value).__name__}")
        if (isinstance(value, float) and not math.isfinite(value)) or not least <= value <= most:
            raise BadJob(f"{node}: input {name!r} is out of range; {least:g} to {most:g} are allowed")
        return value

    def whole(self, node: Node, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number. Raises: BadJob: as `number`, or it has a fraction."""
        value = self.number(node, name, least, most, default)
        if value != int(value):
            raise BadJob(f"{node}: input {name!r} is {value}; a whole number is needed")
        return int(value)

    def _literal(self, node: Node, name: str, default: Any = None) -> Any:
        value = node.inputs.get(name, default)
        if value is None:
            raise BadJob(f"{node}: input {name!r} is missing")
        holder = node
        while is_link(value):
            holder, _ = self.producer(holder, name, "VALUE")
            name = "value"
            value = holder.inputs.get(name)
        return value


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
    """Check a graph's form.

    Raises: BadJob: it is no graph, a link leads nowhere, or nodes feed each other in a circle.
        UnreadableRecipe: a node's class is not understood.
    """
    if not isinstance(spec, dict) or not spec:
        raise BadJob("the recipe's graph is empty or no JSON object")
    nodes: dict[str, Node] = {}
    for node_id, body in spec.items():
        kind = body.get("class_type") if isinstance(body, dict) else None
        inputs = body.get("inputs") if isinstance(body, dict) else None
        if not isinstance(node_id, str) or not isinstance(kind, str) or not isinstance(inputs, dict):
            raise BadJob(f"node {node_id!r}: it needs a class_type and inputs")
        nodes[node_id] = Node(id=node_id, kind=kind, inputs=inputs)
    for node in nodes.values():
        if node.kind not in OUTPUTS:
            raise UnreadableRecipe(f"{node}: this worker does not know the class {node.kind!r}")
        for name, value in node.inputs.items():
            if is_link(value) and value[0] not in nodes:
                raise BadJob(f"{node}: input {name!r} comes from node {value[0]!r}, which does not exist")
    _check_acyclic(nodes)
    return Graph(MappingProxyType(nodes))


def _check_acyclic(nodes: Mapping[str, Node]) -> None:
    """Take away nodes that need nothing, again and again; what is left goes round in circles."""
    needs = {node.id: {value[0] for value in node.inputs.values() if is_link(value)} for node in nodes.values()}
    feeds: dict[str, list[str]] = {}
    for node_id, sources in needs.items():
        for source in sources:
            feeds.setdefault(source, []).append(node_id)
    free = [node_id for node_id, sources in needs.items() if not sources]
    for node_id in free:  # grows while it is read
        for follower in feeds.get(node_id, ()):
            needs[follower].discard(node_id)
            if not needs[follower]:
                free.append(follower)
    stuck = next((node_id for node_id, sources in needs.items() if sources), None)
    if stuck is None:
        return
    seen: set[str] = set()
    while stuck not in seen:  # upstream of what is stuck there is always something stuck: the circle itself
        seen.add(stuck)
        stuck = min(needs[stuck])
    raise BadJob(f"{nodes[stuck]}: it depends on itself")
