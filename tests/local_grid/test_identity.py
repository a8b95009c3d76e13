"""Delegation proofs are checked as the coordinator checks them."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest

from trt_worker.ethereum import load_eth_account
from trt_worker.local_grid import Account, ImageRequest
from trt_worker.local_grid.identity import DELEGATION, REGISTRATION, canonical, recover

Wallet = load_eth_account().Account
encode_defunct = load_eth_account().messages.encode_defunct

pytestmark = pytest.mark.anyio

RIG = Wallet.from_key("0x" + "11" * 32)
PAYOUT = Wallet.from_key("0x" + "22" * 32)
OWNER = Account(key="grid_owner", name="owner", payout_wallet=PAYOUT.address.lower())


def signed(text: str, wallet: Any) -> str:
    return str(wallet.sign_message(encode_defunct(text=text)).signature.hex())


def a_proof(nonce: str = "0" * 32, stamp: int | None = None, name: str = "rig", payer: Any = PAYOUT) -> dict[str, Any]:
    now = int(time.time())
    signer = RIG.address.lower()
    payload = {
        "version": 1, "timestamp": now if stamp is None else stamp, "nonce": nonce, "worker_signer": signer,
        "worker_name": name, "models": ["shapes-tiny"], "job_types": ["image"], "bridge_agent": "lab:0",
        "profile_digest": None, "profile_recipe_root": None,
    }  # fmt: skip
    delegation = {
        "version": 1, "chain_id": 8453, "audience": "api.aipowergrid.io", "delegation_id": "1" * 32,
        "payout_wallet": PAYOUT.address.lower(), "worker_signer": signer, "worker_name": name,
        "issued_at": now, "expires_at": now + 3600,
    }  # fmt: skip
    return {
        "payload": payload,
        "signature": signed(REGISTRATION + canonical(payload), RIG),
        "delegation": {"payload": delegation, "signature": signed(DELEGATION + canonical(delegation), payer)},
    }


async def test_a_proven_rig_key_is_known_and_its_nonce_is_used_up(open_grid) -> None:
    async with open_grid(OWNER, require_identity=True) as place:
        await place.worker(bridge_agent="lab:0", worker_identity=a_proof())
        assert place.grid.sockets.connections["rig"].signer == RIG.address.lower()

        again = await place.register(bridge_agent="lab:0", worker_identity=a_proof())

        assert "already used" in (await again.frame("error"))["message"]
        assert await again.closed() == 4003


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        (lambda: None, "required"),
        (lambda: a_proof(name="other"), "does not match advertised capabilities"),
        (lambda: a_proof(stamp=1), "stale"),
        (lambda: a_proof(payer=RIG), "delegation signature is invalid"),
        (lambda: {"payload": {}}, "malformed"),
    ],
)  # made when the test runs: one made at collection is stale five minutes into a run
async def test_a_proof_that_does_not_hold_is_refused(open_grid, proof, message) -> None:
    async with open_grid(OWNER, require_identity=True) as place:
        worker = await place.register(bridge_agent="lab:0", worker_identity=proof())

        assert message in (await worker.frame("error"))["message"]
        assert await worker.closed() == 4003


async def test_a_result_signature_can_be_checked_against_its_text(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest(n=2))
        job = await worker.frame("job")
        results = await worker.upload(job)
        hashes = "[" + ",".join(f'"{result["sha256"]}"' for result in results) + "]"
        text = f"aipg-job:{job['id']}:{hashlib.sha256(hashes.encode()).hexdigest()}"
        frame = {"type": "done", "id": job["id"], "results": results, "worker_sig": signed(text, RIG)}
        await worker.send(frame)
        result = await handle.result()

        assert result.signed_text == text
        assert recover(result.signed_text, result.signature) == RIG.address.lower()
        assert recover(result.signed_text, "0xnonsense") == ""
