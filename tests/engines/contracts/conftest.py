"""The libraries that contracts are held to."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

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
