"""A rig proves whose it is, checked by a grid that asks for the proof."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_worker.errors import ConfigError
from trt_worker.ethereum import load_eth_account
from trt_worker.intake.grid.delegation import read_delegations
from trt_worker.intake.grid.settings import GridSettings
from trt_worker.intake.grid.signer import RigKey, read_rig_key
from trt_worker.local_grid import Account
from trt_worker.local_grid.identity import DELEGATION, canonical

Wallet = load_eth_account().Account
encode_defunct = load_eth_account().messages.encode_defunct

RIG = Wallet.from_key("0x" + "4b" * 32)
PAYOUT = Wallet.from_key("0x" + "22" * 32)
OWNER = Account(key="grid_owner", name="owner", payout_wallet=PAYOUT.address.lower())


def a_delegation(name: str, *, payer: Any = PAYOUT, signer: str = RIG.address, seconds: int = 3600) -> dict[str, Any]:
    now = int(time.time())
    payload = {
        "version": 1, "chain_id": 8453, "audience": "api.aipowergrid.io", "delegation_id": "1" * 32,
        "payout_wallet": payer.address.lower(), "worker_signer": signer.lower(), "worker_name": name,
        "issued_at": now, "expires_at": now + seconds,
    }  # fmt: skip
    text = encode_defunct(text=DELEGATION + canonical(payload))
    return {"payload": payload, "signature": payer.sign_message(text).signature.hex()}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"private_key": "0x" + "4b" * 32}))
    path.chmod(0o600)
    return path


@pytest.fixture
def a_delegations_file(tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        path = tmp_path / "delegations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


GUARDED = {"accounts": (OWNER,), "require_identity": True}


@pytest.mark.anyio
async def test_a_grid_that_asks_for_a_proof_gets_one_on_every_connection(at_work, key_file, a_delegations_file) -> None:
    signed = a_delegations_file([a_delegation("rig"), a_delegation("rig-2")])
    rig = {"api_key": OWNER.key, "connections": 2, "identity_key_file": key_file, "delegations_file": signed}
    async with at_work(server=GUARDED, **rig) as work:
        await work.grid.connected(2)

        assert [line.signer for line in work.grid.sockets.connections.values()] == [RIG.address.lower()] * 2


@pytest.mark.anyio
async def test_a_delegation_that_another_wallet_signed_ends_the_work_with_advice(
    at_work, key_file, a_delegations_file
) -> None:
    signed = a_delegations_file([a_delegation("rig", payer=RIG)])
    async with at_work(server=GUARDED, api_key=OWNER.key, identity_key_file=key_file, delegations_file=signed) as work:
        await work.until(lambda: bool(work.closed))

        assert "check its key and delegation" in str(work.closed[0])


def test_delegations_without_a_key_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="worker_identity_key_file"):
        GridSettings(
            url="ws://127.0.0.1:1", http_url="http://127.0.0.1:1", api_key="k", name="rig", delegations_file=tmp_path
        )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[", "must be a list"),
        ({"payload": {}}, "must be a list"),
        ([{"signature": "0x"}], "must be a list"),
        ([{"payload": a_delegation("rig")["payload"]}], "'rig' has no signature"),
        ([a_delegation("rig", signer=PAYOUT.address)], "this rig's is 0x"),
        ([a_delegation("rig", seconds=-1)], "has expired"),
        ([a_delegation("other")], "none for rig"),
    ],
)
def test_delegations_that_cannot_work_are_refused_before_anything_starts(
    key_file, a_delegations_file, content, named
) -> None:
    path, key = a_delegations_file(content), read_rig_key(key_file)

    with pytest.raises(ConfigError, match=named):
        read_delegations(path, key, names=("rig",), now=time.time())


def test_a_proof_is_for_one_use(key_file, a_delegations_file) -> None:
    key: RigKey = read_rig_key(key_file)
    delegations = read_delegations(a_delegations_file([a_delegation("rig")]), key, names=("rig",), now=time.time())

    proofs = [delegations.prove(name="rig", models=["m"], bridge_agent="a", now=7) for _ in range(2)]

    assert proofs[0] is not None
    assert proofs[1] is not None
    assert proofs[0]["payload"]["nonce"] != proofs[1]["payload"]["nonce"]
    assert delegations.prove(name="rig-2", models=["m"], bridge_agent="a", now=7) is None
