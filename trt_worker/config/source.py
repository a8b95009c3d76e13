"""Off the disk and the environment: text becomes settings that still know where they stand.

Values stay text here, also those that YAML would turn into numbers, so that one conversion serves both sources and an
API key of digits keeps its zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from trt_worker.config.keys import INTERNAL_VARIABLES, PLAIN_VARIABLES, PREFIX, REGEN
from trt_worker.errors import ConfigError

TEMPLATE = "bridgeData_template.yaml"
LARGEST_FILE = 256 * 1024
"""Bytes. A full file with comments has about 20 000."""
DEEPEST = 16
"""Nesting of lists and mappings; the format needs 3."""
MOST_VALUES = 100_000
"""Values in a file once aliases (`*name`) are written out."""

Raw = str | list[Any] | dict[str, Any] | None
"""A value as it was written; None: nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key as the operator wrote it."""

    key: str
    value: Raw = field(repr=False)
    place: str  # "line 12" or "environment AIWORKER_NSFW"


def read_file(path: Path) -> tuple[Setting, ...]:
    """The settings of a file, in its order.

    Raises: ConfigError: the file is missing, too large, not UTF-8, not YAML, or not a list of keys with values.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist. Copy {TEMPLATE} to it, set api_key, dreamer_name and models_to_load, and start "
            f"again; -c names another file, and with -e the configuration comes from {PREFIX}* variables alone."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{path} cannot be read ({reason}). Check the path given with -c and its permissions."
        ) from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> tuple[Setting, ...]:
    """The settings in the bytes of a file. `name` is how messages call it.

    Raises: ConfigError: as `read_file`.
    """
    if len(data) > LARGEST_FILE:
        raise ConfigError(f"{name} is larger than {LARGEST_FILE // 1024} kB, so it is no configuration of this worker.")
    root = _compose(_decode(data, name), name)
    if root is None or (isinstance(root, ScalarNode) and _is_null(root)):
        return ()
    if not isinstance(root, MappingNode):
        raise ConfigError(f"{name}, {_line(root)}: the file must consist of lines like `key: value`.")
    return _settings(root, name)


def parse_flow(text: str) -> Raw:
    """A list or mapping on one line, in YAML's flow style: `[TOP 3, X]`, `['TOP 3', 'X']`, `[{'name': 'X'}]`.

    Source: the reGen worker's converter of a file to an environment writes Python's own form of a list, which is YAML.

    Raises: ValueError: it is neither.
    """
    try:
        root = _compose(text, "the value")
        if isinstance(root, SequenceNode | MappingNode):
            return _raw(root, _Budget("the value"), 0)
    except ConfigError as error:
        raise ValueError("is no list in brackets, such as ['A', 'B']; check its quotes and brackets") from error
    raise ValueError("is no list in brackets, such as ['A', 'B']")


def read_environment(environ: Mapping[str, str]) -> tuple[Setting, ...]:
    """The settings in AIWORKER_* variables; empty variables count as not set."""
    return tuple(
        Setting(key=_key_of(variable), value=value, place=f"environment {variable}")
        for variable, value in sorted(environ.items())
        if variable.startswith(PREFIX) and variable not in INTERNAL_VARIABLES and value.strip()
    )


def _key_of(variable: str) -> str:
    """The key that a variable sets: AIWORKER_<KEY>, or AIWORKER_REGEN_<KEY> of the reGen worker."""
    return variable.removeprefix(PREFIX).removeprefix(REGEN).lower()


def read_plain_variables(environ: Mapping[str, str]) -> tuple[Setting, ...]:
    """The settings in the variables that had a name of their own before there was a prefix."""
    return tuple(
        Setting(key=key, value=environ[variable], place=f"environment {variable}")
        for variable, key in PLAIN_VARIABLES.items()
        if environ.get(variable, "").strip()
    )


def _decode(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{name} is saved as UTF-16. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line}: not UTF-8 text. Save the file as UTF-8.") from error


def _compose(text: str, name: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = DEEPEST
    yaml.composer.warn_double_anchors = False  # the later one counts, as YAML 1.2 says
    try:
        return yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part) or "cannot be understood"
        raise ConfigError(f"{name}{where}: not valid YAML: {problem}. {_hint(problem, text, mark)}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{name}: not valid YAML: {first}. Compare the file with {TEMPLATE}.") from error


def _hint(problem: str, text: str, mark: Any) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in line:
        return "The line holds a tab; YAML wants spaces."
    if "escape" in problem:
        return "In double quotes a backslash begins an escape; write / in paths, or use single quotes."
    if "mapping values" in problem:
        return "A value that holds a colon needs quotes, and keys of the same level start in the same column."
    if "maximum depth" in problem:
        return f"Lists and mappings are nested more than {DEEPEST} deep; 3 are ever needed."
    if "another document" in problem:
        return "Only one document is allowed: remove the line `---`."
    if "quoted scalar" in problem:
        return "A quote is opened and not closed."
    return f"Look at this line and the one above it, and compare them with {TEMPLATE}."


def _settings(root: Any, name: str) -> tuple[Setting, ...]:
    problems: list[str] = []
    first: dict[str, str] = {}
    found: list[Setting] = []
    budget = _Budget(name)
    for key_node, value_node in root.value:
        place = _line(key_node)
        if not isinstance(key_node, ScalarNode) or not isinstance(key_node.value, str):
            problems.append(f"{place}: a key must be a plain word")
            continue
        key = key_node.value
        if key in first:
            problems.append(f"{place}: {key[:60]!r} stands in the file already, on {first[key]}; remove one of them")
            continue
        first[key] = place
        found.append(Setting(key=key, value=_raw(value_node, budget, 0), place=place))
    if problems:
        raise ConfigError("\n  ".join([f"{name} cannot be used:", *problems]))
    return tuple(found)


@dataclass(slots=True)
class _Budget:
    """Values that may still be read: aliases can make a small file expand without end."""

    name: str
    left: int = MOST_VALUES

    def spend(self, node: Any, depth: int) -> None:
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise ConfigError(f"{self.name}, {_line(node)}: aliases (*name) expand without end. Write the values out.")


def _raw(node: Any, budget: _Budget, depth: int) -> Raw:
    budget.spend(node, depth)
    if isinstance(node, SequenceNode):
        items = (_raw(item, budget, depth + 1) for item in node.value)
        return [item for item in items if item is not None]
    if isinstance(node, MappingNode):
        return {
            key.value if isinstance(key.value, str) else "?": _raw(value, budget, depth + 1)
            for key, value in node.value
        }
    return None if _is_null(node) else str(node.value)


def _is_null(node: Any) -> bool:
    return str(node.tag) == "tag:yaml.org,2002:null"


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1}"
