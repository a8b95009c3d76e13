"""The libraries that contracts are held to, and doubles of what only a card can make.

TensorRT's classes cannot be made without a card. A double stands for an instance of one, and every call of it is
checked against what the library's own docstrings declare: a method that the class has not, arguments that no declared
overload takes, and a property that cannot be set all fail as they would on a card, and what a method returns is again
a double of the declared class.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

import pytest

Loaded = tuple[ModuleType, str]

_MISSING = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


_REAL = ("ILogger", "IProgressMonitor", "IStreamWriter", "Weights")
_DECLARATION = re.compile(r"^\s*(?:\d+\. )?(\w*)\((.*)\) -> (.+?)\s*$")
_VALUES: dict[str, Any] = {"bool": True, "int": 1, "str": "name", "None": None, "tuple": (), "list[str]": []}


@dataclass
class Recorded:
    """What was asked of the doubles, and what they answer where the default will not do."""

    answers: Mapping[str, Any]
    used: set[str] = field(default_factory=set)
    living: WeakSet[Double] = field(default_factory=WeakSet)


@dataclass(frozen=True)
class Overload:
    signature: inspect.Signature
    returns: str


def overloads(function: Any) -> list[Overload]:
    """The declared ways to call a bound function, `self` left out."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        if (match := _DECLARATION.match(line)) and "*args" not in match[2]:
            parameters = [_parameter(text) for text in _split(match[2]) if not text.startswith("self:")]
            found.append(Overload(inspect.Signature(parameters), match[3]))
    assert found, f"{function} declares no signature"
    return found


def _split(text: str) -> list[str]:
    """A parameter list at its outer commas."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([<{") - (letter in ")]>}")
        if letter == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _parameter(text: str) -> inspect.Parameter:
    name, _, rest = text.partition(":")
    annotation, has_default, _ = rest.partition("=")
    default = None if has_default else inspect.Parameter.empty
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default, annotation=annotation.strip())


class Double:
    """An instance of one of the library's classes."""

    def __init__(self, module: ModuleType, of: type, recorded: Recorded) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_of", of)
        object.__setattr__(self, "_recorded", recorded)
        recorded.living.add(self)

    def __getattr__(self, name: str) -> Any:
        declared = getattr(self._of, name)  # AttributeError: the class has no such member
        full = f"{self._of.__name__}.{name}"
        self._recorded.used.add(name)
        if isinstance(declared, property):
            return self._recorded.answers[full]
        return lambda *args, **kwargs: self._called(full, declared, args, kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        declared = getattr(self._of, name)
        assert isinstance(declared, property), f"{self._of.__name__}.{name} is no property"
        assert declared.fset is not None, f"{self._of.__name__}.{name} cannot be set"
        (setter,) = overloads(declared.fset)
        _check(self._module, (*setter.signature.parameters.values(),)[-1].annotation, value, name)
        self._recorded.used.add(name)

    def _called(self, full: str, declared: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        overload = _accepting(self._module, declared, args, kwargs)
        if full in self._recorded.answers:
            answer = self._recorded.answers[full]
            return answer(*args) if callable(answer) else answer
        return _value(self._module, overload.returns, self._recorded)


class Library:
    """The module: enumerations and classes that our code derives from are the library's own, others make doubles."""

    def __init__(self, module: ModuleType, recorded: Recorded, version: str) -> None:
        self._module = module
        self._recorded = recorded
        self.used = recorded.used
        self.recorded = recorded
        self.__version__ = version

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        self._recorded.used.add(name)
        if name in _REAL or hasattr(real, "__members__"):
            return real

        def make(*args: Any, **kwargs: Any) -> Double:
            _accepting(self._module, real.__init__, args, kwargs)
            return Double(self._module, real, self._recorded)

        return make


def _accepting(module: ModuleType, declared: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Overload:
    """The overload that takes the arguments; AssertionError: none does."""
    problems = []
    for overload in overloads(declared):
        try:
            bound = overload.signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                _check(module, overload.signature.parameters[name].annotation, value, name)
        except (TypeError, AssertionError) as problem:
            problems.append(str(problem))
        else:
            return overload
    raise AssertionError(f"{declared.__name__}{args}: {'; '.join(problems)}")


def _check(module: ModuleType, annotation: str, value: Any, name: str) -> None:
    """Whether pybind11 would take a value for a declared type."""
    base = annotation.rsplit(".", 1)[-1]
    if base == "SupportsInt":
        fits = isinstance(value, int)
    elif base == "Dims":  # a sequence of integers converts, as the bindings' documentation says
        fits = isinstance(value, tuple) and all(isinstance(size, int) for size in value)
    elif base == "Buffer":
        fits = isinstance(value, bytes | memoryview)
    elif annotation in ("str", "tuple", "list", "bool"):
        fits = type(value).__name__ == annotation
    elif hasattr(module, base):
        wanted = getattr(module, base)
        fits = issubclass(value._of, wanted) if isinstance(value, Double) else isinstance(value, wanted)
    else:  # declared by its C++ name: the bindings register it under its last part
        fits = isinstance(value, Double) and value._of.__name__ == annotation.rsplit("::", 1)[-1]
    assert fits, f"{name} is a {annotation}, not {value!r}"


def _value(module: ModuleType, annotation: str, recorded: Recorded) -> Any:
    if annotation in _VALUES:
        return _VALUES[annotation]
    name = re.split(r"\.|::", annotation)[-1]
    return Double(module, getattr(module, name), recorded)


@pytest.fixture(scope="session")
def tensorrt_rtx() -> Loaded:
    import tensorrt_rtx

    return tensorrt_rtx, tensorrt_rtx.__version__


@pytest.fixture(scope="session")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """TensorRT's own bindings over empty libraries: all it declares is there, and nothing of it runs.

    PyPI has the bindings (NVIDIA's own index the libraries), which need nine C functions at load and call none of them.
    """
    compiler, folder = shutil.which("gcc"), tmp_path_factory.mktemp("tensorrt")
    if compiler is None:
        pytest.skip("needs gcc to stand in for libraries that PyPI has not")
    source = folder / "empty.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in _MISSING))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = folder / f"lib{name}.so.11"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL)  # found by its soname, seen by nobody else
    package = importlib.util.find_spec("tensorrt_bindings")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "tensorrt.so"
    assert file.suffix in {Path(suffix).suffix for suffix in EXTENSION_SUFFIXES}
    spec = importlib.util.spec_from_file_location("tensorrt_bindings.tensorrt", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, version("tensorrt_cu13_bindings")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Makes `import_module(name)` of the package under test give something else."""

    def set_module(name: str, module: Any) -> None:
        monkeypatch.setitem(sys.modules, name, module)

    return set_module


@pytest.fixture
def make_library() -> Callable[[ModuleType, Mapping[str, Any], str], Library]:
    """A double of a library, with answers for `Class.member` where the declared type does not say enough."""

    def make(module: ModuleType, answers: Mapping[str, Any], version: str) -> Library:
        return Library(module, Recorded(answers), version)

    return make
