"""What makes two networks of the architectures one and the same to a benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from trt_engines.modules.module_spec import ModuleSpec


def network_key(spec: ModuleSpec, config: Mapping[str, Any], *decides: object) -> str:
    """Names a network by what decides its graph; fit for a file's name.

    Args:
        config: that it is made with: the module's own, or its small one.
        decides: what else does, each with a stable `repr`.
    """
    made_by = f"{spec.make.__module__}.{spec.make.__qualname__}"
    return hashlib.sha256(repr((made_by, sorted(config.items()), *decides)).encode()).hexdigest()[:16]
