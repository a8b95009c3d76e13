"""Where processes of the trial find the new architecture's files, as if they lay in the packages."""

from importlib import import_module
from pathlib import Path

FILES = Path(__file__).parents[1] / "files"

for package, folder in (
    ("trt_engines.architectures", "architectures"),
    ("trt_engines.modules", "modules"),
    ("trt_export.checkpoints.maps", "maps"),
):
    import_module(package).__path__.append(str(FILES / folder))
