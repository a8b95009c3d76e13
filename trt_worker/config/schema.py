"""The configuration as a value: every live key with its type, unit, range and default.

Keys keep the names they have in `bridgeData.yaml` and the file stays flat. What was a silent rule of older workers is
written down in `settle`, which says what it changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from trt_engines.architectures.registry import ARCHITECTURES, known_as
from trt_engines.backends.ladder import BACKENDS, TEST_BACKENDS
from trt_worker.addresses import is_loopback
from trt_worker.config.source import parse_flow

ANONYMOUS_KEY = "0000000000"
"""The Horde's public account. It is no secret, earns nothing, and the grid does not know it."""

DEFAULT_NAME = "An Awesome Grid Worker"
"""Stands in the template. Names are unique over a whole network, so this one is nobody's."""

PIXELS_PER_POWER = 8 * 64 * 64
"""Pixels that one unit of `max_power` stands for, as the network's other workers count."""

GRID_DOMAIN = "aipowergrid.io"

MOVED_HOSTS = {"stablehorde.net": "https://aihorde.net/api/", "www.stablehorde.net": "https://aihorde.net/api/"}
"""Hordes that have moved, and where to: the old host answers with a redirect, which no key may follow."""


def _printable(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(
            "holds a control character; in double quotes a backslash begins an escape: write / or use single quotes"
        )
    return text


def _names(value: object) -> object:
    """A list, or the text of one: in brackets, or names with commas or semicolons between them.

    Source: the reGen worker splits what stands in an environment variable at commas, semicolons and brackets.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _structure(value)
    return [item.strip() for item in re.split("[,;]", value) if item.strip()]


def _structure(value: object) -> object:
    """JSON, or what YAML would read as a list or mapping on one line."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return parse_flow(value)


def _gpus(value: object) -> object:
    """`all` is every card there is: an empty tuple. Numbers become text, as identifiers of cards are text too."""
    if isinstance(value, str) and value.strip().lower() in {"", "all"}:
        return ()
    listed = _names(value)
    return [str(item) if isinstance(item, int) else item for item in listed] if isinstance(listed, list) else listed


def _path(value: object) -> object:
    if not isinstance(value, str):
        return value
    _printable(value)
    if not value.strip():
        raise ValueError("is empty; a path is needed")
    if "\\" in value:
        raise ValueError("holds a backslash; write / between folders")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("begins with ~, but there is no such home folder; write the path in full") from error


def _secret(value: object) -> object:
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise ValueError("is empty")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("holds a space or a character that keys do not have; copy it again")
    return text


def _url(text: str, schemes: tuple[str, ...]) -> str:
    allowed = " or ".join(f"{scheme}://host" for scheme in schemes)
    try:
        parts = urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"is no address; allowed: {allowed}") from error
    if parts.scheme not in schemes or not parts.hostname or not port_fits or any(map(str.isspace, text)):
        raise ValueError(f"is no address; allowed: {allowed}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must not carry a user, a query or a fragment; the key belongs in api_key")
    return text


def _horde_url(text: str) -> str:
    return _protected(_url(text, ("https", "http")), "http") if text else text


def _grid_url(text: str) -> str:
    return _protected(_url(text, ("wss", "ws")), "ws")


def _grid_http_url(text: str) -> str:
    return _protected(_url(text, ("https", "http")), "http")


def _protected(url: str, plain: str) -> str:
    """The key travels on this connection: without TLS only to this machine itself."""
    parts = urlsplit(url)
    if parts.scheme == plain and not is_loopback(parts.hostname or ""):
        raise ValueError(f"would send the API key in the clear; allowed: {plain}s://, or {plain}:// to this machine")
    return url


def _wallet(text: str) -> str:
    if text and not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        raise ValueError("is no wallet address; allowed: 0x and 40 hexadecimal digits")
    return text


def _baseline(text: str) -> str:
    if not known_as(text):
        known = dict.fromkeys(alias for one in ARCHITECTURES for alias in one.aliases if " " not in alias)
        raise ValueError(f"is no architecture; allowed: {', '.join(known)}")
    return text


def _backend(text: str) -> str:
    if text not in BACKENDS:
        raise ValueError(f"is not known; allowed: {', '.join(BACKENDS)}")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_printable)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=100)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_names)]
Words = Annotated[tuple[Annotated[Text, StringConstraints(min_length=1)], ...], BeforeValidator(_names)]
Backends = Annotated[tuple[Annotated[str, AfterValidator(_backend)], ...], BeforeValidator(_names)]
Gpus = Annotated[tuple[Name, ...], BeforeValidator(_gpus)]
FolderPath = Annotated[Path, BeforeValidator(_path)]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class CustomModel(BaseModel):
    """A checkpoint of the operator's own, as older workers name it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Name
    baseline: Annotated[Text, AfterValidator(_baseline)]
    filepath: FolderPath


CustomModels = Annotated[tuple[CustomModel, ...], BeforeValidator(_structure)]


class Config(BaseModel):
    """What the operator decides. Every field is a key of the file; aliases and dead keys are in `keys`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    # Who works, and where.
    api_key: Secret = SecretStr(ANONYMOUS_KEY)
    dreamer_name: Name = DEFAULT_NAME  # unique on the whole network
    worker_name: Name = DEFAULT_NAME  # what dreamer_name falls back to
    network: Literal["auto", "grid", "horde", "both"] = "auto"
    horde_url: Annotated[Text, AfterValidator(_horde_url)] = ""  # "https://host/api/"
    grid_url: Annotated[Text, AfterValidator(_grid_url)] = "wss://ws.aipowergrid.io/v1/workers/ws"
    grid_http_url: Annotated[Text, AfterValidator(_grid_http_url)] = "https://api.aipowergrid.io"
    grid_connections: Annotated[int, Field(ge=0, le=64)] = 0  # 0: two per row of a batch
    bridge_agent: Annotated[Text, StringConstraints(max_length=128)] = ""  # "": this worker's own name and version
    wallet_address: Annotated[Text, AfterValidator(_wallet)] = ""  # Horde of the grid's kind only; shown publicly
    worker_identity_key_file: FolderPath | None = None  # the rig key that signs results
    worker_delegations_file: FolderPath | None = None  # the wallet's signatures for that key, one per name
    grid_ca_file: FolderPath | None = None  # further certificate authorities (PEM), as an origin behind a proxy needs
    remove_maintenance_on_init: bool = False

    # What is offered.
    models_to_load: Words = ("ALL",)  # names and meta instructions, as text: see `resolve_models`
    models_to_skip: Words = ()
    custom_models: CustomModels = ()
    max_power: Annotated[int, Field(ge=1, le=512)] = 32  # largest picture: this times 32768 pixels
    nsfw: bool = True
    blacklist: Words = ()  # jobs whose prompt holds one of these are not taken (Horde)
    allow_img2img: bool = True
    allow_painting: bool = False
    allow_controlnet: bool = False
    allow_sdxl_controlnet: bool = False
    allow_lora: bool = False
    allow_post_processing: bool = False
    allow_unsafe_ip: bool = True
    priority_usernames: Words = ()  # "name#number"
    require_upfront_kudos: bool = False
    extra_slow_worker: bool = False
    limit_max_steps: bool = False
    civitai_api_token: Secret | None = None

    # How the rig is used.
    cache_home: FolderPath = Path("models")
    backends: Backends = ()  # tried in this order; (): the best order for each card
    gpus: Gpus = ()  # (): all cards; else numbers or identifiers
    max_batch: Annotated[int, Field(ge=1, le=20)] = 4  # rows that share one engine call
    max_threads: Annotated[int, Field(ge=1, le=16)] = 1
    queue_size: Annotated[int, Field(ge=0, le=16)] = 1  # jobs taken ahead of those that run
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.8  # of a card's memory, or the machine's: for engines
    threads_per_device: Annotated[int, Field(ge=0, le=1024)] = 0  # 0: all cores; CPU only

    # Time, in seconds where nothing else is said.
    process_timeout: Seconds = 300.0  # a device may be silent for this long while jobs run
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0  # for jobs under way, when told to stop
    ack_seconds: Seconds = 30.0  # for the network's answer to a result
    minutes_allowed_without_jobs: Annotated[int, Field(ge=0, le=3599)] = 30  # then one warning; 0: none

    # What is said.
    stats_output_frequency: Annotated[float, Field(ge=0, le=86_400)] = 30.0  # between status blocks; 0: none
    suppress_speed_warnings: bool = False
    limited_console_messages: bool = False
    exit_on_unhandled_faults: bool = False
    log_dir: FolderPath = Path("logs")
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0  # this machine only; 0: off

    @model_validator(mode="after")
    def _network_has_an_address(self) -> Self:
        if self.network in {"horde", "both"} and self.horde_url_is_grid:
            raise ValueError(
                f"network is {self.network}, but horde_url names no Horde; set horde_url, for example to "
                "https://aihorde.net/api/, or network to grid"
            )
        return self

    @model_validator(mode="after")
    def _test_backends_serve_this_machine_only(self) -> Self:
        tested = [name for name in self.backends if name in TEST_BACKENDS]
        urls = [self.grid_url, self.grid_http_url] if "grid" in self.networks else []
        urls += [self.horde_url] if "horde" in self.networks else []
        abroad = [host for url in urls if not is_loopback(host := urlsplit(url).hostname or "")]
        if tested and abroad:
            raise ValueError(
                f"backends names {tested[0]}, which only tests the worker, while {abroad[0]} would get its pictures; "
                "leave it out, or let every address be one of this machine"
            )
        return self

    @property
    def horde_url_is_grid(self) -> bool:
        """Whether `horde_url` is empty or names the grid, whose Horde interface has been switched off."""
        host = (urlsplit(self.horde_url).hostname or "").lower()
        return not host or host == GRID_DOMAIN or host.endswith("." + GRID_DOMAIN)

    @property
    def networks(self) -> frozenset[Literal["grid", "horde"]]:
        """The networks to work for."""
        match self.network:
            case "auto":
                return frozenset({"grid"} if self.horde_url_is_grid else {"horde"})
            case "both":
                return frozenset({"grid", "horde"})
            case one:
                return frozenset({one})

    @property
    def max_pixels(self) -> int:
        """Largest picture, in pixels."""
        return self.max_power * PIXELS_PER_POWER

    def connections(self, devices: int) -> int:
        """Connections to the grid, each under a name of its own; one connection carries one job at a time."""
        return self.grid_connections or 2 * self.max_batch * devices

    @property
    def is_anonymous(self) -> bool:
        """Whether no key of an account is set."""
        return self.api_key.get_secret_value() == ANONYMOUS_KEY

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must appear in no log and in no report."""
        kept = () if self.is_anonymous else (self.api_key.get_secret_value(),)
        return kept if self.civitai_api_token is None else (*kept, self.civitai_api_token.get_secret_value())

    def anchored(self, home: Path) -> Self:
        """The same with every relative path starting in `home`."""
        paths: dict[str, object] = {key: home / value for key, value in self if isinstance(value, Path)}
        own = tuple(one.model_copy(update={"filepath": home / one.filepath}) for one in self.custom_models)
        return self.model_copy(update=paths | {"custom_models": own})

    def redacted(self) -> dict[str, Any]:
        """Every key with its value, fit for a bug report and for JSON: secrets say only that they are set."""
        return {key: _shown(value) for key, value in self}


def _shown(value: object) -> object:
    match value:
        case SecretStr():
            return "anonymous" if value.get_secret_value() == ANONYMOUS_KEY else "(set)"
        case Path():
            return str(value)
        case CustomModel():
            return {key: _shown(entry) for key, entry in value}
        case tuple():
            return [_shown(entry) for entry in value]
        case _:
            return value


def settle(config: Config) -> tuple[Config, tuple[tuple[str, str], ...]]:
    """Apply the rules between keys.

    Older workers applied these, and some more, without a word: queue_size was cut down when max_threads grew (here one
    process serves a card whatever max_threads is, so nothing is cut), and extra_slow_worker also switched off the
    performance and memory modes (which are gone).

    Returns: the configuration that holds, and (key, what was changed and why) for each change.
    """
    changes = list(_changes(config))
    return config.model_copy(update={key: value for key, value, _ in changes}), tuple(
        (key, why) for key, _, why in changes
    )


def _changes(config: Config) -> Iterator[tuple[str, object, str]]:
    controlnet = config.allow_controlnet and config.allow_img2img
    if config.allow_controlnet and not controlnet:
        yield "allow_controlnet", False, "counts as false, since allow_img2img is false"
    if config.allow_sdxl_controlnet and not controlnet:
        yield "allow_sdxl_controlnet", False, "counts as false, since allow_controlnet is false"
    if config.extra_slow_worker and config.queue_size:
        yield "queue_size", 0, "counts as 0, since extra_slow_worker is true: a job that waits would be late"
    if config.extra_slow_worker and config.max_threads > 1:
        yield "max_threads", 1, "counts as 1, since extra_slow_worker is true"
    if moved := MOVED_HOSTS.get((urlsplit(config.horde_url).hostname or "").lower()):
        yield "horde_url", moved, f"counts as {moved}, where that Horde has moved; write that"
    numbered = tuple(name for name in config.priority_usernames if re.search(r"#\d+$", name))
    if numbered != config.priority_usernames:
        left_out = ", ".join(repr(name[:60]) for name in config.priority_usernames if name not in numbered)
        yield "priority_usernames", numbered, f"{left_out} left out; names are written as name#number"
