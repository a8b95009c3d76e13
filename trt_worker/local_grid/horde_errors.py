"""The Horde's three shapes of error body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HordeError(Exception):
    """A refusal: a status and the JSON body that goes with it."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("message")))
        self.status = status
        self.body = body


def refused(status: int, rc: str, message: str) -> HordeError:
    """A business error: `{message, rc}`."""
    return HordeError(status, {"message": message, "rc": rc})


def invalid(**errors: str) -> HordeError:
    """A schema error: `{errors, message}`, without `rc`."""
    return HordeError(400, {"errors": errors, "message": "Input payload validation failed"})


def plain(status: int, message: str) -> HordeError:
    """A framework error: `{message}` alone."""
    return HordeError(status, {"message": message})


NO_SUCH_USER = "No user matching sent API Key. Have you remembered to register at https://stablehorde.net/register ?"
NOT_UNDERSTOOD = "The browser (or proxy) sent a request that this server could not understand."
RETIRED = {"status": "gone", "message": "The legacy /api/v2 API has been retired. Use https://api.aipowergrid.io/v1."}


def invalid_key() -> HordeError:
    """An API key that belongs to nobody."""
    return refused(401, "InvalidAPIKey", NO_SUCH_USER)


def did_you_mean(path: str, *others: str) -> str:
    """What the framework appends to the text of a 404 below a known path."""
    return f" You have requested this URI [{path}] but did you mean {' or '.join(others)} ?"
