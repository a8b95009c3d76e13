"""What an operator decides about working for the grid."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from trt_worker import AGENT_NAME, __version__
from trt_worker.addresses import is_loopback
from trt_worker.errors import ConfigError

WORKER_PATH = "/v1/workers/ws"

_NEAR = {"api.aipowergrid.io": "ws.aipowergrid.io"}
"""What stands in front of the first host resets sockets that live long; the second is there for workers."""

_BEHIND_ORIGIN_CA = frozenset({"ws.aipowergrid.io"})
"""Hosts that show a certificate of Cloudflare's Origin CA, which no system trusts by itself."""

ORIGIN_CA = Path(__file__).parent / "cloudflare_origin_ca.pem"
"""That authority's root for RSA keys, as Cloudflare publishes it; valid until 2029-08-15."""


FIXED = ("url", "http_url", "api_key", "name", "connections", "bridge_agent", "identity_key_file", "delegations_file")
"""Settings that connections are made of: a transport keeps them for its life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSettings:
    """One grid, one worker, as many connections as it has names for."""

    url: str  # "wss://ws.aipowergrid.io/v1/workers/ws"; the path may be left out
    http_url: str  # "https://api.aipowergrid.io": where the recipes are read
    api_key: str = field(repr=False)
    name: str  # of the first connection; the others are NAME-2, NAME-3, ...
    connections: int = 1  # each carries one job at a time
    bridge_agent: str = f"{AGENT_NAME}:{__version__}"
    ack_seconds: float = 30.0  # how long a result may stay without an answer
    client_seconds: float = 300.0  # how long the grid's customers wait for an image
    margin_seconds: float = 10.0  # kept back from that for upload and hand-in
    first_retry_wait: float = 1.0  # seconds after a lost connection; doubles up to the longest, with jitter
    longest_retry_wait: float = 60.0
    eviction_waits: tuple[float, ...] = (30.0, 120.0, 600.0, 3600.0)  # seconds; the grid's own ladder
    look_seconds: float = 3.0  # between two looks whether a name that was closed with 1012 is online
    takeover_wait: float = 90.0  # seconds after which a name that is online still is somebody else's; presence lives 60
    gap_seconds: float = 0.2  # a job that the grid holds follows an acknowledgement within 10 to 30 ms
    ping_patience: float = 30.0  # seconds without a ping until a gap after an acknowledgement is taken instead
    recipe_check_seconds: float = 300.0
    progress_seconds: float = 2.0  # between two progress frames of a job
    open_seconds: float = 30.0  # for connecting, and again for being registered
    call_timeout: float = 15.0  # seconds for one call over HTTP
    source_timeout: float = 30.0  # seconds for fetching a source image
    source_limit_bytes: int = 12 * 1024 * 1024  # the grid's own limit
    allow_img2img: bool = True
    ssl_context: ssl.SSLContext | None = field(default=None, compare=False)  # None: the system's trust store
    identity_key_file: Path | None = None  # signs results; see `signer.read_rig_key`
    delegations_file: Path | None = None  # proves whose rig this is; see `delegation.read_delegations`

    def __post_init__(self) -> None:
        """Refuse what cannot work or would send the key in the clear.

        Raises: ConfigError: a value is out of its range.
        """
        problems = (
            (not self.api_key.strip(), "the API key is empty; create one in the grid's console and put it in"),
            (not 1 <= len(self.name) <= 110, f"the name has {len(self.name)} characters; 1 to 110 are allowed"),
            (self.connections < 1, f"connections is {self.connections}; it must be at least 1"),
            (len(self.bridge_agent) > 128, "bridge_agent is longer than 128 characters"),
            (self.ack_seconds <= 0, f"ack_seconds is {self.ack_seconds}; it must be above 0"),
            (
                not 0 <= self.margin_seconds < self.client_seconds,
                f"margin_seconds is {self.margin_seconds}; it must be below client_seconds ({self.client_seconds})",
            ),
            (not self.eviction_waits, "eviction_waits is empty"),
            (
                self.delegations_file is not None and self.identity_key_file is None,
                "delegations are for a key; name it with worker_identity_key_file",
            ),
        )
        for wrong, message in problems:
            if wrong:
                raise ConfigError(f"grid settings: {message}")
        _check_address("url", self.url, "ws", "wss")
        _check_address("http_url", self.http_url, "http", "https")

    @property
    def worker_url(self) -> str:
        """Where the connections go."""
        url = URL(self.url)
        near = _NEAR.get(url.host or "")
        url = url.with_host(near) if near else url
        return str(url if url.path.strip("/") else url.with_path(WORKER_PATH))

    @property
    def names(self) -> tuple[str, ...]:
        """One per connection: the grid keeps a single connection under each name."""
        return (self.name, *(f"{self.name}-{number}" for number in range(2, self.connections + 1)))

    def recipe_url(self, model: str) -> URL:
        """Where the recipes of a model are read; its name may hold anything."""
        return URL(self.http_url.rstrip("/")) / "v1" / "models" / model / "recipe"

    @property
    def workers_url(self) -> URL:
        """Where the grid lists the workers that are online."""
        return URL(self.http_url.rstrip("/")) / "v1" / "workers"


def trusting(url: str, ca_file: Path | None) -> ssl.SSLContext | None:
    """Whom to trust for a connection to the grid: the system's authorities, and further ones.

    Args:
        url: of the grid; the live one shows a certificate for which the system's authorities are not enough.
        ca_file: certificate authorities of the operator's, in PEM.
    Returns: None: the system's alone are enough.
    Raises: ConfigError: the file cannot be read or holds no certificate.
    """
    host = URL(url).host or ""
    files = [ORIGIN_CA] if _NEAR.get(host, host) in _BEHIND_ORIGIN_CA else []
    if ca_file is not None:
        files.append(ca_file)
    if not files:
        return None
    context = ssl.create_default_context()
    for file in files:
        try:
            context.load_verify_locations(file)
        except OSError as error:  # SSLError is one
            raise ConfigError(
                f"grid_ca_file {file}: {error.strerror or error}; it must hold PEM certificates"
            ) from error
    return context


def _check_address(field_name: str, address: str, plain: str, secure: str) -> None:
    try:
        url = URL(address)
    except ValueError as error:
        raise ConfigError(f"grid settings: {field_name} {address!r} is not an address") from error
    if url.scheme not in {plain, secure} or not url.host:
        raise ConfigError(f"grid settings: {field_name} {address!r} must start with {secure}://")
    if url.scheme == plain and not is_loopback(url.host):
        raise ConfigError(
            f"grid settings: {field_name} {address!r} would send the API key unencrypted; use {secure}:// "
            f"({plain}:// is for this machine only)"
        )
