"""What an operator decides about working for a Horde."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from trt_worker import AGENT_NAME, __version__
from trt_worker.addresses import is_loopback
from trt_worker.errors import ConfigError

PROJECT_URL = "https://aipowergrid.io"

MAX_POP_IMAGES = 20
"""Largest `amount` a pop may ask for."""

WALLET_CHARACTERS = 42
"""A wallet address of any other length is dropped by the server without a word."""


FIXED = ("url", "api_key", "worker_name", "bridge_agent", "open_pops")
"""Settings that a transport keeps for its life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HordeSettings:
    """One Horde, one worker name.

    `bridge_agent` decides more than a name would suggest. The server looks up what a worker can do by the part
    before the first colon, in a table of its own. A name that is not in it has no capability at all, not even
    uploads: it gets only the rare requests with `r2: false`, without source images, and is credited 0.75 of every
    reward. Nothing in the server's answers says so. The default tells the truth; a private Horde can add it to its
    table, and on a public one the name is the operator's decision.
    """

    url: str  # "https://aihorde.net/api"; a trailing "/v2" or "/" does not matter
    api_key: str = field(repr=False)
    worker_name: str  # unique on the whole server
    bridge_agent: str = f"{AGENT_NAME}:{__version__}:{PROJECT_URL}"  # name:version:url
    max_power: int = 32  # largest picture: max_power * 8 * 64 * 64 pixels; 32 is 1024 x 1024
    max_batch: int = 4  # images one pop asks for, 1..20; an AIPG-style server hands out whole requests only
    open_pops: int = 2  # pops under way at once while jobs come
    threads: int = 1  # what the server shows as this worker's threads, 1..50; it enforces nothing
    nsfw: bool = True
    blacklist: tuple[str, ...] = ()
    priority_usernames: tuple[str, ...] = ()  # "name#123"
    allow_img2img: bool = True
    allow_unsafe_ipaddr: bool = True
    require_upfront_kudos: bool = False
    extra_slow_worker: bool = False
    limit_max_steps: bool = False
    wallet_address: str = ""  # AIPG-style servers only; shown publicly
    remove_maintenance_on_init: bool = False
    due_margin: float = 10.0  # seconds kept back from every job's time to live for upload and submit
    first_idle_wait: float = 1.0  # seconds between pops when there is no work; grows to the longest, with jitter
    longest_idle_wait: float = 5.0
    maintenance_wait: float = 60.0  # seconds between pops in maintenance
    fault_hold: float = 5.0  # seconds without pops after a dropped image; doubles with each further one in an hour
    first_retry_wait: float = 1.0  # seconds after a failed call; doubles up to a minute
    call_timeout: float = 30.0  # seconds; a pop that is cut off may cost a job that was already handed out
    source_timeout: float = 30.0  # seconds for fetching a source image
    source_limit_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse what the server would refuse, or worse, ignore.

        Raises: ConfigError: a value is out of its range.
        """
        problems = (
            (not self.url.startswith(("https://", "http://")), f"url {self.url!r} must start with https:// or http://"),
            (
                self.url.startswith("http://") and not is_loopback(urlsplit(self.url).hostname or ""),
                f"url {self.url!r} would send the API key unencrypted; use https:// (http:// is for this machine only)",
            ),
            (not self.api_key.strip(), "the API key is empty; register on the Horde's web page and put the key in"),
            (
                not 1 <= len(self.worker_name) <= 100,
                f"the worker name has {len(self.worker_name)} characters; 1 to 100 are allowed",
            ),
            (not 1 <= self.max_batch <= MAX_POP_IMAGES, f"max_batch is {self.max_batch}; 1 to 20 are allowed"),
            (not 1 <= self.threads <= 50, f"threads is {self.threads}; 1 to 50 are allowed"),
            (self.max_power < 1, f"max_power is {self.max_power}; it must be at least 1"),
            (self.open_pops < 1, f"open_pops is {self.open_pops}; it must be at least 1"),
            (
                any("#" not in name for name in self.priority_usernames),
                "priority_usernames must be written as name#number",
            ),
            (
                bool(self.wallet_address)
                and not (self.wallet_address.startswith("0x") and len(self.wallet_address) == WALLET_CHARACTERS),
                "wallet_address must be 0x and 40 hexadecimal digits",
            ),
        )
        for wrong, message in problems:
            if wrong:
                raise ConfigError(f"Horde settings: {message}")

    @property
    def max_pixels(self) -> int:
        """Largest picture the worker offers to make, as the network's other workers count it."""
        return self.max_power * 8 * 64 * 64

    @property
    def base_url(self) -> str:
        """Address of the API's version 2, without a slash at the end."""
        return self.url.rstrip("/").removesuffix("/v2") + "/v2"
