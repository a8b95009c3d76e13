"""Whether the configured networks answer, by which proxy, and whether this machine's clock agrees with theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import anyio
from yarl import URL

from trt_engines.text import shown
from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding
from trt_worker.errors import ConfigError
from trt_worker.proxies import Proxies, proxies_of
from trt_worker.sessions import open_session

ANSWER_SECONDS = 5.0
MOST_SKEW_SECONDS = 60.0
"""Presigned uploads and signed results are refused when times differ by minutes."""

_SYNCHRONISE = "sudo timedatectl set-ntp true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said to a request for its headers alone."""

    url: str
    skew: float | None = None  # seconds that our clock is ahead of its; None: it gave no date
    problem: str = ""  # why there is none


def examine_networks(config: Config, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Ask each network that the worker is to work for, without a key, by the way that the worker's own requests take.

    Args:
        environ: names the proxies.
    """
    try:
        proxies = proxies_of(environ)
    except ConfigError as error:
        yield Finding(mark="fault", what="proxy", text=str(error), mend="env | grep -i proxy")
        return
    urls = [url for network, url in (("grid", config.grid_http_url), ("horde", config.horde_url))
            if network in config.networks]  # fmt: skip
    yield from _proxies(proxies, [*urls, *([config.grid_url] if "grid" in config.networks else [])])
    answers = anyio.run(_ask_all, urls, environ)
    for answer in answers:
        if answer.problem:
            text = f"{answer.url}: {answer.problem}"
            yield Finding(mark="fault", what="network", text=text, mend=f"curl -I {answer.url}")
        else:
            yield Finding(mark="ok", what="network", text=f"{answer.url} answers")
    yield _clock([answer.skew for answer in answers if answer.skew is not None])


def _proxies(proxies: Proxies, urls: Sequence[str]) -> Iterator[Finding]:
    """Which requests take which proxy; one that none of them takes is not mentioned."""
    served: dict[str, list[str]] = {}
    for url in urls:
        if (proxy := proxies.of(URL(url))) is not None:
            served.setdefault(f"{proxy.url}, named by {proxy.variable}", []).append(url)
    for proxy_text, takers in served.items():
        yield Finding(mark="ok", what="proxy", text=f"{proxy_text}, serves {', '.join(takers)}")


async def _ask_all(urls: Sequence[str], environ: Mapping[str, str]) -> list[Answer]:
    async with open_session(environ) as session:
        return [await ask(session, url) for url in urls]


async def ask(session: aiohttp.ClientSession, url: str) -> Answer:
    """Request a server's headers; any answer, also an error's, shows that it is reached."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with session.head(url, allow_redirects=False, timeout=timeout) as response:
            date = response.headers.get("Date")
    except aiohttp.ClientHttpProxyError as error:
        return Answer(url=url, problem=f"the proxy lets nobody through (HTTP {error.status})")
    except TimeoutError:
        return Answer(url=url, problem=f"no answer within {ANSWER_SECONDS:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(url=url, problem=shown(error) or type(error).__name__)
    try:
        skew = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() if date else None
    except (TypeError, ValueError):  # no date that HTTP knows
        skew = None
    return Answer(url=url, skew=skew)


def _clock(skews: list[float]) -> Finding:
    if skews:
        worst = max(skews, key=abs)
        if abs(worst) > MOST_SKEW_SECONDS:
            text = f"{abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} the network's"
            return Finding(mark="fault", what="clock", text=text, mend=_SYNCHRONISE)
        return Finding(mark="ok", what="clock", text="agrees with the network's")
    if shutil.which("timedatectl"):
        command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
        if said.stdout.strip() == "yes":
            return Finding(mark="ok", what="clock", text="synchronised")
    return Finding(mark="note", what="clock", text="could not be compared with anybody's", mend=_SYNCHRONISE)
