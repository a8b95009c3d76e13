"""Proof at registration that a rig works for its owner: the payout wallet signed for the rig's key, once per name.

The owner signs on another machine; only the rig's key, which owns nothing, lies here. A grid takes workers without a
proof as long as it does not ask for one. Source: the AIPG coordinator's `worker_identity`; both texts are EIP-191
messages, a prefix and canonical JSON.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trt_worker.errors import ConfigError
from trt_worker.intake.grid.signer import RigKey

REGISTRATION = "aipg-worker-registration:v1:"


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What the payout wallet signed; further fields are kept as they are."""

    worker_name: str
    worker_signer: str
    expires_at: int


class Delegations:
    """The delegations of one rig key, by worker name."""

    def __init__(self, key: RigKey, by_name: Mapping[str, Mapping[str, Any]]) -> None:
        self._key = key
        self._by_name = by_name

    def prove(self, *, name: str, models: Sequence[str], bridge_agent: str, now: int) -> dict[str, Any] | None:
        """`worker_identity` of a register frame, good for one use; None: nobody signed for this name.

        Args:
            models, bridge_agent: exactly as in the frame.
            now: unix seconds; the grid allows five minutes of difference.
        """
        delegation = self._by_name.get(name)
        if delegation is None:
            return None
        payload = {
            "version": 1,
            "timestamp": now,
            "nonce": secrets.token_hex(16),
            "worker_signer": self._key.address.lower(),
            "worker_name": name,
            "models": list(models),
            "job_types": ["image"],
            "bridge_agent": bridge_agent,
            "profile_digest": None,
            "profile_recipe_root": None,
        }
        return {
            "payload": payload,
            "signature": self._key.sign_text(REGISTRATION + canonical(payload)),
            "delegation": delegation,
        }


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no blanks and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def read_delegations(path: Path, key: RigKey, *, names: Sequence[str], now: float) -> Delegations:
    """The delegations in a file: a JSON list of `{"payload": ..., "signature": ...}`, one for every name.

    Args:
        names: of all connections; each needs a delegation of its own.
        now: unix seconds.
    Raises: ConfigError: the file cannot be read or is malformed, or a name has none that is good for this key.
    """
    where = f"worker delegations {path}"
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
        payloads = [msgspec.convert(entry.get("payload"), Payload) for entry in entries]
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ConfigError(f'{where}: must be a list of {{"payload": ..., "signature": ...}} ({error})') from error
    good: dict[str, Mapping[str, Any]] = {}
    for entry, payload in zip(entries, payloads, strict=True):
        if not isinstance(entry.get("signature"), str):
            raise ConfigError(f"{where}: the delegation of {payload.worker_name!r} has no signature")
        if payload.worker_signer.lower() != key.address.lower():
            raise ConfigError(
                f"{where}: the delegation of {payload.worker_name!r} is for the key {payload.worker_signer}, "
                f"this rig's is {key.address}"
            )
        if payload.expires_at <= now:
            raise ConfigError(f"{where}: the delegation of {payload.worker_name!r} has expired; sign a new one")
        good[payload.worker_name] = {"payload": entry["payload"], "signature": entry["signature"]}
    missing = [name for name in names if name not in good]
    if missing:
        raise ConfigError(
            f"{where}: none for {', '.join(missing)}; each connection needs its own (grid_connections sets how many)"
        )
    return Delegations(key, good)
