"""What has the shape of a secret, and what was registered as one."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.telemetry.redact import HIDDEN, Redactor

SECRETS = st.text("abcXYZ0189+/=_-'\"\\é %", min_size=12, max_size=40).filter(str.strip)


@given(SECRETS, st.text(), st.text())
def test_a_registered_secret_is_hidden_wherever_it_stands(secret: str, before: str, after: str) -> None:
    redact = Redactor([secret])

    assert secret not in redact(before + secret + after)
    assert quote(secret, safe="") not in redact(before + quote(secret, safe="") + after)
    assert repr(secret)[1:-1] not in redact(str({"key": secret}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "PUT https://r2.example/a/b.webp?X-Amz-Signature=abc&x=1 failed",
            f"PUT https://r2.example/a/b.webp?{HIDDEN} failed",
        ),
        ("url='https://r2.example/a?sig=abc', status=403", f"url='https://r2.example/a?{HIDDEN}', status=403"),
        ("wss://user:pass@host/path", f"wss://{HIDDEN}@host/path"),
        ("path /b.webp?a=1&X-Amz-Credential=abc/def&n=1", f"path /b.webp?a=1&X-Amz-Credential={HIDDEN}&n=1"),
        ("{'apikey': 'abc', 'name': 'rig'}", f"{{'apikey': {HIDDEN}, 'name': 'rig'}}"),
        ('{"api_key":"abc","n":1}', f'{{"api_key":{HIDDEN},"n":1}}'),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer " + HIDDEN),
        ("civitai_api_token=abcdefgh", "civitai_api_token=" + HIDDEN),
        ("key grid_0123456789abcdefABCDEF0123456789 refused", f"key {HIDDEN} refused"),
        ("\x1b[2Jcleared\x07\u2028\u202e", r"\x1b[2Jcleared\x07\u2028\u202e"),
        ("wss://host/path X-Amz-Date and https://host", "wss://host/path X-Amz-Date and https://host"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert Redactor()(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Submitted generation 1a2b (model: SDXL) for 12.50 kudos. 77 tokens, why? Because.",
        "https://aihorde.net/api/v2/workers answered 200",
        "job 0000000000 took 10.0000000000 s",
        "api_key is the anonymous key: nothing is earned with it",
        "line one\n\tline two",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert Redactor(["0000000000", "kudos", ""])(text) == text


def test_hiding_twice_changes_nothing_more() -> None:
    redact = Redactor(["hunter22-hunter22"])
    once = redact("apikey: 'hunter22-hunter22' https://a/b?c=d")

    assert redact(once) == once


def test_a_redactor_does_not_show_what_it_hides() -> None:
    redact = Redactor(["hunter22"])

    assert "hunter22" not in f"{redact!r} {redact}"


PIECES = [
    "a", "a'", "http://", "https://a?", "http://x@", "X-Amz-", "X-Amz-A=", "grid_", "Bearer ", "apikey='", 'apikey="',
    "api_token", "_api_token", "secret  ", "'secret'", "authorization: Bearer ", "password = ", "\n", "hunter2",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_longer_than_its_length_asks_for(piece: str) -> None:
    """Where time grew with the square of the length, a text of this size took half an hour."""
    for end in ("", "!", "\x1b"):
        assert Redactor(["hunter22-hunter22"])(piece * (250_000 // len(piece)) + end)
