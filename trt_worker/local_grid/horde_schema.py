"""What the Horde checks about a request body before anything else, in the words it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_worker.local_grid.horde_errors import HordeError, invalid

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}

STATES = ("ok", "censored", "faulted", "csam")
METADATA_VALUES = ("download_failed", "parse_failed", "baseline_mismatch", "csam", "nsfw", "see_ref")
_METADATA_TYPES = (
    "lora",
    "ti",
    "censorship",
    "source_image",
    "source_mask",
    "extra_source_images",
    "batch_index",
    "information",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of a body."""

    kind: str
    low: float | None = None
    high: float | None = None
    shortest: int | None = None
    longest: int | None = None
    choices: tuple[str, ...] = ()
    items: Field | None = None
    keys: Mapping[str, Field] = field(default_factory=dict)
    required: bool = False


def _flags(*names: str) -> dict[str, Field]:
    return {name: Field(kind="boolean") for name in names}


POP: Mapping[str, Field] = {
    "name": Field(kind="string"),
    "priority_usernames": Field(kind="array", items=Field(kind="string")),
    "models": Field(kind="array", items=Field(kind="string", shortest=3, longest=255)),
    "bridge_agent": Field(kind="string", longest=1000),
    "threads": Field(kind="integer", low=1, high=50),
    "amount": Field(kind="integer", low=1, high=20),
    "max_pixels": Field(kind="integer"),
    "blacklist": Field(kind="array", items=Field(kind="string")),
    "wallet_address": Field(kind="string"),
    **_flags(
        "nsfw",
        "require_upfront_kudos",
        "extra_slow_worker",
        "allow_img2img",
        "allow_painting",
        "allow_unsafe_ipaddr",
        "allow_post_processing",
        "allow_controlnet",
        "allow_sdxl_controlnet",
        "allow_lora",
        "limit_max_steps",
    ),
}

ASK: Mapping[str, Field] = {
    "prompt": Field(kind="string", required=True),
    "params": Field(
        kind="object",
        keys={"n": Field(kind="integer", low=1, high=20), "steps": Field(kind="integer", low=1, high=500)},
    ),
    "models": Field(kind="array", items=Field(kind="string")),
}
"""What a request is checked for; the server checks every field, these are the ones that something here depends on."""

_METADATUM = {
    "type": Field(kind="string", choices=_METADATA_TYPES, required=True),
    "value": Field(kind="string", choices=METADATA_VALUES, required=True),
    "ref": Field(kind="string", longest=255),
}
_METADATUM_UPSTREAM = _METADATUM | {
    "type": Field(kind="string", choices=(*_METADATA_TYPES, "aesthetic_score"), required=True)
}


def submit_schema(*, upstream: bool) -> Mapping[str, Field]:
    """The keys of a submit; upstream knows one metadata type more."""
    return {
        "id": Field(kind="string", required=True),
        "generation": Field(kind="string"),
        "seed": Field(kind="integer", required=True),
        "state": Field(kind="string", choices=STATES),
        "censored": Field(kind="boolean"),
        "gen_metadata": Field(
            kind="array", items=Field(kind="object", keys=_METADATUM_UPSTREAM if upstream else _METADATUM)
        ),
    }


WORKER: Mapping[str, Field] = {
    "maintenance": Field(kind="boolean"),
    "maintenance_msg": Field(kind="string"),
    "paused": Field(kind="boolean"),
    "info": Field(kind="string", longest=1000),
    "name": Field(kind="string", shortest=5, longest=100),
    "team": Field(kind="string"),
}


def check(body: Any, schema: Mapping[str, Field]) -> None:
    """Compare a body with its schema; keys the schema does not know are let through.

    Raises: HordeError: 400 with one text per offending key, `models.0` naming a list's entry.
    """
    errors: dict[str, str] = {}
    _check_object(body, schema, "", errors)
    if errors:
        raise invalid(**errors)


def required(help_text: str, name: str) -> HordeError:
    """A key that the request parser, not the schema, misses."""
    return invalid(**{name: f"{help_text} Missing required parameter in the JSON body"})


def _check_object(body: Mapping[str, Any], schema: Mapping[str, Field], prefix: str, errors: dict[str, str]) -> None:
    for name, rule in schema.items():
        if name in body:
            _check_value(body[name], rule, prefix + name, errors)
        elif rule.required:
            errors[prefix + name] = f"'{name}' is a required property"


def _check_value(value: Any, rule: Field, path: str, errors: dict[str, str]) -> None:
    fits = isinstance(value, _TYPES[rule.kind]) and (rule.kind == "boolean" or not isinstance(value, bool))
    if not fits:
        errors[path] = f"{value!r} is not of type '{rule.kind}'"
    elif rule.choices and value not in rule.choices:
        errors[path] = f"{value!r} is not one of {list(rule.choices)!r}"
    elif rule.low is not None and value < rule.low:
        errors[path] = f"{value} is less than the minimum of {rule.low}"
    elif rule.high is not None and value > rule.high:
        errors[path] = f"{value} is greater than the maximum of {rule.high}"
    elif rule.shortest is not None and len(value) < rule.shortest:
        errors[path] = f"{value!r} is too short"
    elif rule.longest is not None and len(value) > rule.longest:
        errors[path] = f"{value!r} is too long"
    elif rule.items is not None:
        for index, item in enumerate(value):
            _check_value(item, rule.items, f"{path}.{index}", errors)
    elif rule.keys:
        _check_object(value, rule.keys, path + ".", errors)
