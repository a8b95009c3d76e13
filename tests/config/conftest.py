"""Makers of configuration files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from trt_worker.config.load import Loaded, load_config

Load = Callable[..., Loaded]

OWN = "api_key: grid_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\ndreamer_name: Rig of mine\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the text of a file; unless `own` is switched off, with a key and a name of the operator's own before it."""

    def loads(
        text: str | bytes = "", *, environ: Mapping[str, str] | None = None, name: str | None = None, own: bool = True
    ) -> Loaded:
        path = tmp_path / "bridgeData.yaml"
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(OWN.encode() + data if own else data)
        return load_config(path, environ=environ or {}, name=name)

    return loads
