"""Whether the configured networks answer, and whether this machine's clock agrees with theirs."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding

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


def examine_networks(config: Config) -> Iterator[Finding]:
    """Ask each network that the worker is to work for, without a key."""
    urls = [url for network, url in (("grid", config.grid_http_url), ("horde", config.horde_url))
            if network in config.networks]  # fmt: skip
    answers = [ask(url) for url in urls]
    for answer in answers:
        if answer.problem:
            text = f"{answer.url}: {answer.problem}"
            yield Finding(mark="fault", what="network", text=text, mend=f"curl -I {answer.url}")
        else:
            yield Finding(mark="ok", what="network", text=f"{answer.url} answers")
    yield _clock([answer.skew for answer in answers if answer.skew is not None])


def ask(url: str) -> Answer:
    """Request a server's headers; any answer, also an error's, shows that it is reached."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            date = response.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    except (OSError, http.client.HTTPException) as error:
        return Answer(url=url, problem=str(getattr(error, "reason", "") or error) or type(error).__name__)
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
