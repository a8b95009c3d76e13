"""What a local grid is set up with: accounts, time limits, recipes. Nothing here changes while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Dialect(StrEnum):
    """Whose Horde v2 server is spoken; they differ in names, batching, ttl and a few payload fields."""

    AI_HORDE = "ai-horde"
    AIPG = "aipg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody with an API key, on both protocols."""

    key: str = field(repr=False)
    name: str
    scopes: frozenset[str] = frozenset({"account.read", "inference.submit"})  # what a console key carries
    bound_to: str | None = None  # the only worker name this key may use; None: any
    payout_wallet: str = ""  # 0x and 40 lowercase hex digits, or empty
    trusted: bool = True
    moderator: bool = False
    flagged: bool = False
    kudos: float = 1_000.0

    @property
    def may_connect(self) -> bool:
        """Whether a worker may register with this key."""
        return bool(self.scopes & {"worker.connect", "inference.submit"})


LOCAL = Account(key="grid_local_0000000000000000000000000000000", name="local")
"""The account everything runs under unless a test brings its own."""

CUSTOMER = Account(key="grid_customer_00000000000000000000000000000", name="customer", kudos=1_000_000.0)
"""Who asks for pictures on the Horde side: somebody other than the worker's owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HordeSettings:
    """The Horde v2 side."""

    dialect: Dialect = Dialect.AI_HORDE
    known_models: frozenset[str] = frozenset(
        {"shapes-tiny", "stable_diffusion", "Deliberate", "SDXL 1.0", "stable_diffusion_inpainting"}
    )
    ttl_seconds: float | None = None  # None: the dialect's own rule
    sweep_seconds: float = 60.0  # how often jobs past their ttl are taken back
    upload_seconds: int = 1_800  # life of a presigned upload
    debounce_seconds: float = 0.0  # ai-horde stores changed flags of a worker at most this often (30 there)
    drops_before_maintenance: int = 20  # more faulted or late images than this within an hour force maintenance
    enforce_rate_limits: bool = False  # the documented per-address limits


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSettings:
    """Everything a local grid needs to know before it starts. Defaults are the coordinator's own figures."""

    port: int = 0  # 0: any free one
    accounts: tuple[Account, ...] = (LOCAL, CUSTOMER)
    seed: int = 0  # of job ids, seeds and every random choice
    register_seconds: float = 30.0  # the first frame must arrive within
    ping_seconds: float = 10.0  # between pings while a connection is idle
    presence_seconds: float = 60.0  # a name counts as online for so long after its last refresh
    presence_refresh_seconds: float = 20.0  # between two refreshes of a connection's name
    silence_seconds: float = 600.0  # without any frame during a job: the connection is dropped
    client_seconds: float = 300.0  # a customer waits this long for an image
    upload_seconds: int = 900  # life of a presigned upload
    source_seconds: int = 3_600  # life of a source image's address
    prefetch: int = 2  # further jobs a connection holds while it works on one
    max_requeues: int = 25
    dispatch_gap_seconds: float = 0.0  # acknowledgement to next job; 10 to 30 ms were seen on the real coordinator
    loses_held: bool = False
    """Whether closing a connection costs what it costs on the real coordinator: the last job held for it is lost until
    its customer gives up, and an idle connection that its worker closes is noticed no sooner than something is sent."""
    require_identity: bool = False  # refuse workers without a signed delegation
    compress: bool = False  # offer permessage-deflate on the WebSocket
    horde: HordeSettings = field(default_factory=HordeSettings)
