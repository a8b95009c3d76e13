"""Recipes: ComfyUI graphs in API form that a model's jobs carry, and how a request is written into one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from trt_worker.job import MAX_PROMPT_CHARACTERS

SHIPPED = Path(__file__).parent / "recipes"

_FILE_INPUTS = frozenset({"ckpt_name", "unet_name", "clip_name", "vae_name", "lora_name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One graph and what a customer may set in it."""

    name: str
    model: str
    required_models: tuple[str, ...]
    root: str  # 0x and 64 hex digits: names this exact graph
    spec: Mapping[str, Any] = field(repr=False)  # node id -> {class_type, inputs, _meta}
    variables: Mapping[str, str | list[str]]  # knob -> "node.inputs.field", or several of them
    clamps: Mapping[str, tuple[float, float]]
    choices: Mapping[str, tuple[str, ...]]
    lora_inject: Mapping[str, Any] | None

    @property
    def takes_image(self) -> bool:
        """Whether the graph starts from a source image."""
        return "image" in self.variables

    @property
    def image_paths(self) -> list[str]:
        """Where the source image belongs."""
        return _paths(self.variables.get("image"))

    def describe(self) -> dict[str, Any]:
        """The recipe as `GET /v1/models/{model}/recipe` reports it."""
        nodes = self.spec.values()
        return {
            "name": self.name,
            "recipe_root": self.root,
            "job_type": "image",
            "required_models": list(self.required_models),
            "node_types": sorted({node["class_type"] for node in nodes}),
            "model_files": sorted(
                {value for node in nodes for name, value in node["inputs"].items() if name in _FILE_INPUTS}
            ),
            "image_paths": self.image_paths,
            "spec": self.spec,
        }

    def resolve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The graph with `values` (knob -> value) written in: clamped, cut, and left alone where not allowed."""
        graph = dict(self.spec)
        for knob, value in values.items():
            if knob == "prompt" or knob == "negative_prompt":
                value = value[:MAX_PROMPT_CHARACTERS]
            if knob in self.clamps:
                low, high = self.clamps[knob]
                value = type(value)(min(max(value, low), high))
            if knob in self.choices and value not in self.choices[knob]:
                continue
            for path in _paths(self.variables.get(knob)):
                node_id, _, name = path.partition(".inputs.")
                node = graph[node_id]
                graph[node_id] = {**node, "inputs": {**node["inputs"], name: value}}
        return graph


def read_recipe(text: bytes) -> Recipe:
    """A recipe from its file: a graph whose `_grid` entry says which model it serves and what may be set.

    The root is the SHA-256 of the canonical JSON of the whole file, as the AIPG coordinator computes it.
    """
    whole = orjson.loads(text)
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    about = whole["_grid"]
    return Recipe(
        name=about["name"],
        model=about["modelName"],
        required_models=tuple(about["requiredModels"]),
        root="0x" + hashlib.sha256(canonical.encode()).hexdigest(),
        spec={node_id: node for node_id, node in whole.items() if node_id != "_grid"},
        variables=about["vars"],
        clamps={knob: (low, high) for knob, (low, high) in about.get("clamps", {}).items()},
        choices={knob: tuple(allowed) for knob, allowed in about.get("enums", {}).items()},
        lora_inject=about.get("loraInject"),
    )


@cache
def shipped_recipes() -> tuple[Recipe, ...]:
    """The graphs that come with the package, all for `shapes-tiny`; a model's first text recipe is its default."""
    return tuple(read_recipe(path.read_bytes()) for path in sorted(SHIPPED.glob("*.json"), key=lambda path: path.stem))


def choose_recipe(recipes: Iterable[Recipe], model: str, *, name: str | None, with_image: bool) -> Recipe | None:
    """The recipe a request runs: by name, else the model's first that takes (or does not take) a source image.

    Raises: LookupError: the name is none of the model's recipes, or no recipe of a model that has some fits.
    """
    own = [recipe for recipe in recipes if recipe.model == model]
    if not own and name is None:
        return None
    if name is not None:
        own = [recipe for recipe in own if recipe.name == name]
    for recipe in own:
        if recipe.takes_image == with_image:
            return recipe
    wanted = f"named {name!r}" if name is not None else "that fits"
    raise LookupError(f"model {model!r} has no recipe {wanted} {'with' if with_image else 'without'} a source image")


def _paths(target: str | list[str] | None) -> list[str]:
    if target is None:
        return []
    return [target] if isinstance(target, str) else list(target)
