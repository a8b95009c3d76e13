"""All findings, in the order in which an operator reads them."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from trt_worker.config.load import CANONICAL, SECRET_KEYS, load_config
from trt_worker.config.schema import Config
from trt_worker.config.source import read_file
from trt_worker.doctor.finding import Finding
from trt_worker.doctor.machine import examine_libraries, examine_machine
from trt_worker.doctor.models import examine_models
from trt_worker.doctor.network import examine_networks
from trt_worker.doctor.rig import examine_rig
from trt_worker.errors import ConfigError


def examine(config_path: Path, environ: Mapping[str, str], home: Path, *, read_weights: bool = False) -> list[Finding]:
    """Look at machine, libraries, cards, configuration, models and networks; loads no engine and takes no job.

    Args:
        home: where relative paths of the configuration start.
        read_weights: also read every file of weights that has a digest, which takes minutes with many models.
    """
    loaded, configured = _configured(config_path, environ, home)
    config = loaded or Config().anchored(home)
    return [
        *examine_machine(config.cache_home),
        *examine_libraries(),
        *configured,
        *examine_rig(config, environ),
        *examine_models(config, read_weights=read_weights),
        *(examine_networks(loaded, environ) if loaded else ()),
    ]


def _configured(path: Path, environ: Mapping[str, str], home: Path) -> tuple[Config | None, list[Finding]]:
    try:
        loaded = load_config(path, environ=environ, home=home)
    except ConfigError as error:
        mend = "cp bridgeData_template.yaml bridgeData.yaml" if not path.exists() else f"nano {path}"
        return None, [Finding(mark="fault", what="config", text=str(error).splitlines()[0], mend=mend)]
    named = f"{path}, for {' and '.join(sorted(loaded.config.networks))}"
    notes = [Finding(mark="note", what="config", text=str(note)) for note in loaded.notes]
    return loaded.config, [Finding(mark="ok", what="config", text=named), *notes, *_readable_secrets(path)]


def _readable_secrets(path: Path) -> Iterator[Finding]:
    """A note for a file with a key in it that every account of this machine may read."""
    held = [setting.key for setting in read_file(path) if CANONICAL.get(setting.key) in SECRET_KEYS and setting.value]
    if held and path.stat().st_mode & stat.S_IROTH:
        text = f"{path} holds {' and '.join(held)}, and everybody on this machine may read it"
        yield Finding(mark="note", what="config", text=text, mend=f"chmod 600 {shlex.quote(str(path))}")
