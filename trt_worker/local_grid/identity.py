"""Delegation proofs at registration: a rig key that a payout wallet has signed for.

Source: the AIPG coordinator's registration proof. Both texts are EIP-191 messages: a prefix and canonical JSON.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from trt_worker.ethereum import load_eth_account

REGISTRATION = "aipg-worker-registration:v1:"
DELEGATION = "aipg-worker-delegation:v1:"
SKEW_SECONDS = 300
_NONCE = re.compile(r"[0-9a-f]{32}")


class IdentityRefused(Exception):
    """The proof does not hold; the message is what the coordinator answers."""


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no blanks and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class IdentityRegister:
    """Checks proofs and remembers which nonces were used."""

    def __init__(self, *, required: bool) -> None:
        self._required = required
        self._nonces: set[str] = set()

    def verify(self, proof: Any, *, payout_wallet: str, advertised: Mapping[str, Any]) -> str:
        """The rig key's address, or an empty string when no proof was offered and none is needed.

        Args:
            advertised: worker_name, models, job_types and bridge_agent of the register frame.
        Raises: IdentityRefused: with the coordinator's message.
        """
        if proof is None:
            if self._required:
                raise IdentityRefused("worker identity proof is required")
            return ""
        try:
            payload, delegation = proof["payload"], proof["delegation"]["payload"]
            signatures = proof["signature"], proof["delegation"]["signature"]
            signer, nonce, stamp = payload["worker_signer"], payload["nonce"], payload["timestamp"]
        except (KeyError, TypeError) as error:
            raise IdentityRefused("worker identity proof is malformed") from error
        if not payout_wallet:
            raise IdentityRefused("account has no payout wallet to delegate from")
        if any(payload.get(name) != value for name, value in advertised.items()):
            raise IdentityRefused("worker registration proof does not match advertised capabilities")
        if delegation.get("worker_name") != advertised["worker_name"] or delegation.get("worker_signer") != signer:
            raise IdentityRefused("worker delegation does not match the registration")
        if delegation.get("payout_wallet") != payout_wallet:
            raise IdentityRefused("worker delegation names another payout wallet")
        now = time.time()
        if not isinstance(stamp, int) or abs(now - stamp) > SKEW_SECONDS:
            raise IdentityRefused("worker registration proof is stale")
        if not delegation["issued_at"] - SKEW_SECONDS <= now < delegation["expires_at"]:
            raise IdentityRefused("worker delegation is expired")
        if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
            raise IdentityRefused("worker identity proof is malformed")
        if nonce in self._nonces:
            raise IdentityRefused("worker registration proof was already used")
        if recover(REGISTRATION + canonical(payload), signatures[0]) != signer:
            raise IdentityRefused("worker registration signature is invalid")
        if recover(DELEGATION + canonical(delegation), signatures[1]) != payout_wallet:
            raise IdentityRefused("worker delegation signature is invalid")
        self._nonces.add(nonce)
        return str(signer)


def recover(text: str, signature: Any) -> str:
    """The lowercase address that signed `text` (EIP-191), or an empty string for a signature that cannot be read."""
    library = load_eth_account()
    try:
        signed = library.messages.encode_defunct(text=text)
        return str(library.Account.recover_message(signed, signature=signature)).lower()
    except (ValueError, TypeError, AttributeError):
        return ""
