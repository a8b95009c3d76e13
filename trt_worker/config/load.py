"""From what the operator wrote to a configuration: later sources win, every wrong value is named, nothing is ignored
silently.

The order, weakest first: the defaults, the file, CIVIT_API_TOKEN and AI_HORDE_URL, AIWORKER_<KEY>, the `-n` option.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen
from pydantic import StringConstraints, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trt_worker.config.keys import ALIASES, DEAD, UNSERVED, dead_reason
from trt_worker.config.placeholders import is_placeholder
from trt_worker.config.schema import Config, settle
from trt_worker.config.source import Raw, Setting, read_environment, read_file, read_plain_variables
from trt_worker.errors import ConfigError

CANONICAL: Mapping[str, str] = {
    name: key
    for key in Config.model_fields
    for alias in (key, *ALIASES.get(key, ()))
    for name in (alias, alias.lower())
}
"""From every name of a live key, also in lower case, to the key."""

SECRET_KEYS = frozenset({"api_key", "civitai_api_token"})
"""Their values are quoted in no message, however wrong they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that the operator should know and that stops nothing."""

    key: str
    place: str  # "bridgeData.yaml, line 12", "environment AIWORKER_NSFW", or "" for what stands nowhere
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key} {self.text}" if self.place else f"{self.key} {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration and what is to be said about it."""

    config: Config
    notes: tuple[Note, ...]


def load_config(
    path: Path | None, *, environ: Mapping[str, str], name: str | None = None, home: Path = Path()
) -> Loaded:
    """The configuration from a file and the environment.

    Args:
        path: the file; None: the environment alone.
        environ: as `os.environ`.
        name: overrides `dreamer_name`.
        home: the folder that relative paths start in; the default is the current one.
    Raises: ConfigError: the file cannot be used, or values are wrong; then all of them are named.
    """
    from_file = () if path is None else tuple(_in_file(path, setting) for setting in read_file(path))
    option = () if name is None else (Setting(key="dreamer_name", value=name, place="option -n"),)
    sources = (option, read_environment(environ), read_plain_variables(environ), from_file)
    loaded = assemble(sources, source=str(path) if path else "The environment")
    return replace(loaded, config=loaded.config.anchored(home))


def assemble(sources: Iterable[tuple[Setting, ...]], *, source: str) -> Loaded:
    """Check and merge settings. An earlier source wins; within one a key wins over its aliases.

    Args:
        source: how the message of an error begins.
    Raises: ConfigError: values are wrong.
    """
    notes: list[Note] = []
    chosen: dict[str, Setting] = {}
    for settings in sources:
        within: dict[str, Setting] = {}
        for setting in settings:
            key = CANONICAL.get(setting.key)
            if key is None:
                notes.append(_without_effect(setting))
            elif setting.value is not None:
                _choose(within, key, setting, notes)
        chosen = {**within, **chosen}
    if "dreamer_name" not in chosen and "worker_name" in chosen:
        chosen["dreamer_name"] = chosen["worker_name"]
    try:
        config = Config.model_validate({key: setting.value for key, setting in chosen.items()})
    except ValidationError as error:
        problems = list(dict.fromkeys(_problem(details, chosen) for details in error.errors(include_url=False)))
        count = "1 value" if len(problems) == 1 else f"{len(problems)} values"
        raise ConfigError("\n  ".join([f"{source}: {count} cannot be used:", *problems])) from None
    config, changes = settle(config)
    notes += [Note(key=key, place=chosen[key].place if key in chosen else "", text=why) for key, why in changes]
    notes += _advice(config, chosen)
    return Loaded(config=config, notes=tuple(notes))


def _in_file(path: Path, setting: Setting) -> Setting:
    return replace(setting, place=f"{path.name}, {setting.place}")


def _choose(within: dict[str, Setting], key: str, setting: Setting, notes: list[Note]) -> None:
    """Of two names for one key in one source: the key itself, then the first that stands there."""
    rival = within.get(key)
    if rival is None:
        within[key] = setting
        return
    winner, loser = (setting, rival) if setting.key == key and rival.key != key else (rival, setting)
    within[key] = winner
    text = f"has no effect: {winner.key} sets the same ({winner.place})"
    notes.append(Note(key=loser.key, place=loser.place, text=text))


def _without_effect(setting: Setting) -> Note:
    reason = dead_reason(setting.key)
    if reason is not None:
        return Note(key=setting.key, place=setting.place, text=f"has no effect: {reason}")
    known = sorted({*CANONICAL, *(key for key in DEAD if "*" not in key)})
    close = get_close_matches(setting.key.lower(), known, n=1)
    suggestion = f"; the closest known key is {close[0]}" if close else ""
    return Note(key=repr(setting.key[:60]), place=setting.place, text=f"is unknown and has no effect{suggestion}")


def _advice(config: Config, chosen: Mapping[str, Setting]) -> Iterator[Note]:
    def note(key: str, text: str) -> Note:
        return Note(key=key, place=chosen[key].place if key in chosen else "", text=text)

    if config.is_anonymous:
        refusal = ", and the grid refuses it" if "grid" in config.networks else ""
        yield note("api_key", f"is the anonymous key: nothing is earned with it{refusal}; set your own")
    elif is_placeholder(config.api_key.get_secret_value()):
        yield note("api_key", "is still the text of a template, which no network knows; set your own")
    if is_placeholder(config.dreamer_name):
        text = f"is still a template's, {config.dreamer_name!r}: names are unique on the whole network, choose your own"
        yield note("dreamer_name", text)
    if not config.nsfw:
        where = "" if "horde" in config.networks else ", and the grid cannot be told"
        yield note("nsfw", f"only keeps such jobs away on a Horde{where}; pictures are not looked at")
    for key, why in UNSERVED.items():
        if getattr(config, key):
            yield note(key, f"has no effect: {why}")


def _problem(details: ErrorDetails, chosen: Mapping[str, Setting]) -> str:
    """One line for one wrong value: where it stands, what is wrong, what is allowed."""
    location = details["loc"]
    if not location:  # a rule between keys
        setting = chosen.get("network")
        return f"{setting.place}: {_reason(details)}" if setting else _reason(details)
    key = str(location[0])
    setting = chosen[key]
    item = "".join(f", item {part + 1}" if isinstance(part, int) else f", {part}" for part in location[1:])
    value = "the value" if key in SECRET_KEYS else _quoted(_at(setting.value, location[1:]))
    wrong = _reason(details) or _wants(Config.model_fields[key], location)
    return f"{setting.place}: {setting.key}{item}: {value} {wrong}"


def _reason(details: ErrorDetails) -> str:
    """What a check of our own says about a value; empty: pydantic has refused it."""
    raised = details.get("ctx", {}).get("error")
    return str(raised) if isinstance(raised, ValueError) else ""


def _at(value: Raw, location: tuple[int | str, ...]) -> object:
    """The part of a value at a location; the whole where the location does not lead into what was written."""
    found: Any = value
    for part in location:
        if isinstance(found, list) and isinstance(part, int) and part < len(found):
            found = found[part]
        elif isinstance(found, dict) and part in found:
            found = found[str(part)]
        else:
            return found
    return found


def _quoted(value: object) -> str:
    match value:
        case str() if any(mark in value for mark in ("@", "?", "grid_")):
            return "the value"  # it may hold a password, or a key that was put in the wrong place
        case str():
            return repr(value if len(value) <= 60 else value[:57] + "...")
        case list():
            return "a list"
        case _:
            return "a mapping"


def _wants(field: FieldInfo, location: tuple[int | str, ...]) -> str:
    """What a field allows, in an operator's words."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return f"is not known; allowed: {', '.join(get_args(kind))}"
    if kind is bool:
        return "is neither true nor false"
    if kind in (int, float):
        return f"is no such number; allowed: {'a whole number' if kind is int else 'a number'} {_range(field)}"
    if len(location) > 2:
        return "does not fit; allowed: name, baseline and filepath, with a baseline such as stable_diffusion_xl"
    if get_origin(kind) is tuple:
        return "does not fit; allowed: a list of names, each on a line of its own that begins with `- `"
    longest = [rule.max_length for rule in field.metadata if isinstance(rule, StringConstraints | MaxLen)]
    characters = next((f" of 1 to {length} characters" for length in longest if length), "")
    return f"does not fit; allowed: one text{characters}"


def _range(field: FieldInfo) -> str:
    words = []
    for rule in field.metadata:
        match rule:
            case Ge():
                words.append(f"from {rule.ge}")
            case Gt():
                words.append(f"above {rule.gt}")
            case Le():
                words.append(f"up to {rule.le}")
    return " ".join(words)
