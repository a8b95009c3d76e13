"""What the operator wrote, as a value that is checked once and never changes."""

from trt_worker.config.load import DEFAULT_FILE, Loaded, Note, load_config
from trt_worker.config.models import resolve_models
from trt_worker.config.reload import Reload, follow, reloadable, watch
from trt_worker.config.schema import Config, CustomModel

__all__ = [
    "DEFAULT_FILE",
    "Config",
    "CustomModel",
    "Loaded",
    "Note",
    "Reload",
    "follow",
    "load_config",
    "reloadable",
    "resolve_models",
    "watch",
]
