"""Who works for the Horde: names, keys, what each worker said of itself, and whom the Horde turns away."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trt_worker.local_grid.horde_errors import invalid_key, plain, refused
from trt_worker.local_grid.horde_state import HordeWorker
from trt_worker.local_grid.settings import Account, Dialect, GridSettings

ANONYMOUS = "0000000000"
DEFAULTS: Mapping[str, Any] = {
    "nsfw": True,
    "bridge_agent": "unknown:0:unknown",
    "threads": 1,
    "require_upfront_kudos": False,
    "amount": 1,
    "extra_slow_worker": False,
    "max_pixels": 262_144,
    "blacklist": (),
    "allow_img2img": True,
    "allow_painting": True,
    "allow_unsafe_ipaddr": True,
    "allow_post_processing": True,
    "allow_controlnet": False,
    "allow_sdxl_controlnet": False,
    "allow_lora": False,
    "limit_max_steps": False,
    "wallet_address": None,
}
"""What a server takes for a field that a pop leaves out, whatever its documentation says."""

_FLAGGED_TEXT = (
    "Your user has been flagged by our community for suspicious activity. "
    "Please contact us on discord: https://discord.gg/3DxrhksKzn"
)
_PROFANE = re.compile(r"fuck|shit|cunt", re.IGNORECASE)
_FORBIDDEN_WORDS = ("colab", "tpu", "google")
_LONGEST_NAME = 100


class HordeWorkers:
    """Everybody who has ever popped, by name.

    Args:
        new_id: gives a worker its id.
    """

    def __init__(self, settings: GridSettings, new_id: Callable[[], str]) -> None:
        self.accounts: Mapping[str, Account] = {account.key: account for account in settings.accounts}
        self.other_names: set[str] = set()  # taken by text workers
        self.known_models = set(settings.horde.known_models)
        self.by_name: dict[str, HordeWorker] = {}
        self._settings = settings.horde
        self._new_id = new_id

    def account(self, key: str | None) -> Account:
        """Whose key it is.

        Raises: HordeError: 401, nobody's.
        """
        if key is None or key not in self.accounts:
            raise invalid_key()
        return self.accounts[key]

    def by_id(self, worker_id: str) -> HordeWorker | None:
        """The worker with an id."""
        return next((worker for worker in self.by_name.values() if worker.id == worker_id), None)

    def check_in(self, body: Mapping[str, Any], key: str | None) -> HordeWorker:
        """Who pops, with its flags stored.

        Raises: HordeError: any of the reasons a worker is turned away.
        """
        owner = self.account(key)
        if any("#" not in name for name in body.get("priority_usernames") or ()):
            raise refused(
                400,
                "InvalidPriorityUsername",
                "Priority usernames need to be provided in the form of 'alias#number'. Example: 'db0#1'",
            )
        if owner.flagged:
            raise refused(403, "WorkerFlaggedMaintenance", _FLAGGED_TEXT)
        if owner.key == ANONYMOUS:
            raise refused(403, "AnonForbiddenWorker", "Anonymous user is forbidden from performing this operation")
        name = _clean(body["name"])
        if name in self.other_names:
            text = f"The specified name '{name}' is already taken by a different type of worker. "
            raise refused(400, "PolymorphicNameConflict", text + "Please choose a different name!")
        models = self._known(body.get("models") or ())
        worker = self.by_name.get(name)
        if worker is None:
            worker = self._hire(name, owner, body, models)
        elif worker.owner.key != owner.key:
            raise refused(403, "WrongCredentials", "Wrong credentials to submit as this worker.")
        elif not models:
            raise _unknown_models()
        now = time.monotonic()
        worker.checked_in = now
        fresh = {**DEFAULTS, **{field: value for field, value in body.items() if field in DEFAULTS}}
        debounce = self._settings.debounce_seconds if self._settings.dialect is Dialect.AI_HORDE else 0.0
        if now - worker.created <= debounce or now - worker.stored >= debounce:
            worker.said, worker.stored, worker.models = fresh, now, models
        return worker

    def _known(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(model for model in models if model in self.known_models)

    def _hire(self, name: str, owner: Account, body: Mapping[str, Any], models: tuple[str, ...]) -> HordeWorker:
        if _PROFANE.search(name):
            raise _profane("ProfaneWorkerName", "worker name")
        if _PROFANE.search(body.get("bridge_agent", "")):
            raise _profane("ProfaneBridgeAgent", "bridge agent")
        for word in _FORBIDDEN_WORDS:
            if word in name.lower():
                text = f"To avoid unwanted attention, please do not use '{word}' in your worker names."
                raise refused(400, "BadRequest", text)
        if len(name) > _LONGEST_NAME:
            raise plain(500, "Internal Server Error")
        crowd = sum(worker.owner.key == owner.key for worker in self.by_name.values())
        aipg = self._settings.dialect is Dialect.AIPG
        if not owner.trusted and crowd > 3:
            text = "To avoid abuse, untrusted users can only have up to 3 distinct workers."
            raise refused(403, "Forbidden" if aipg else "TooManyWorkers", text)
        if owner.trusted and crowd > 20:
            text = "To avoid abuse, users can only have up to 20 distinct workers."
            raise refused(403, "Forbidden" if aipg else "TooManyWorkersTrusted", text)
        if not models:
            raise _unknown_models()
        worker = HordeWorker(id=self._new_id(), name=name, owner=owner, said=dict(DEFAULTS))
        self.by_name[name] = worker
        return worker


def _unknown_models() -> Exception:
    text = "Unfortunately we cannot accept workers serving unrecognised models at this time"
    return refused(400, "BadRequest", text)


def _profane(rc: str, what: str) -> Exception:
    text = f"As our API is public, we do not allow profanity in the {what}, please try again."
    return refused(400, rc, text)


def _clean(name: str) -> str:
    return name.replace("\0", "").replace("&", "&amp;")
