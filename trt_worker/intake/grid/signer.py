"""Signatures under results, with a key that lies on the rig and owns nothing.

The grid pays without them; it records who signed. It accepts the payout wallet's key, or a rig key that the wallet has
delegated to. Source: the AIPG coordinator's check of `worker_sig`.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trt_worker.errors import ConfigError
from trt_worker.ethereum import load_eth_account

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def signed_text(job_id: str, digests: Sequence[str]) -> str:
    """What is signed for a job.

    Args:
        digests: SHA-256 of every image in lower-case hex, in index order.
    """
    listed = ",".join(f'"{digest}"' for digest in digests)
    return f"aipg-job:{job_id}:{hashlib.sha256(f'[{listed}]'.encode()).hexdigest()}"


class RigKey:
    """Signs with one key; a signature takes some milliseconds of computing."""

    def __init__(self, account: Any) -> None:
        """
        Args:
            account: an eth_account LocalAccount.
        """
        self.address = str(account.address)
        self._account = account

    def sign(self, job_id: str, digests: Sequence[str]) -> str:
        """The signature under a job's result; see `signed_text`."""
        return self.sign_text(signed_text(job_id, digests))

    def sign_text(self, text: str) -> str:
        """EIP-191 signature as 0x and 130 hex digits."""
        message = load_eth_account().messages.encode_defunct(text=text)
        return "0x" + bytes(self._account.sign_message(message).signature).hex()


def read_rig_key(path: Path) -> RigKey:
    """The key of a key file: JSON with `private_key`, and optionally the `address` it must belong to.

    Raises: ConfigError: the file cannot be read, others may read it, or it holds no such key.
    """
    try:
        mode, body = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigError(f"worker identity key {path}: cannot be read ({error.strerror})") from error
    if mode & _OTHERS:
        raise ConfigError(f"worker identity key {path}: others may read it; run `chmod 600 {path}`")
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ConfigError(f"worker identity key {path}: it is not JSON") from error
    key = found.get("private_key") if isinstance(found, dict) else None
    if not isinstance(key, str):
        raise ConfigError(f"worker identity key {path}: it has no private_key")
    try:
        account = load_eth_account().Account.from_key(key)
    except ValueError:
        # without the cause, whose text may hold the key
        raise ConfigError(f"worker identity key {path}: private_key must be 64 hex digits") from None
    address = found.get("address")
    if address is not None and str(address).lower() != account.address.lower():
        raise ConfigError(f"worker identity key {path}: address is {address}, but the key belongs to {account.address}")
    return RigKey(account)
