"""Where engines are kept."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_STORE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trt-worker" / "engines"
"""Unless the operator says otherwise (XDG base directories: they can be built again)."""

VARIABLE = "TRT_WORKER_ENGINES"
"""The environment variable with which the operator says it."""
