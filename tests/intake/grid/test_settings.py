"""What an operator may decide."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme

from trt_worker.errors import ConfigError
from trt_worker.intake.grid.settings import GridSettings, trusting


def a_settings(**fields: Any) -> GridSettings:
    usual = {"url": "wss://ws.aipowergrid.io/v1/workers/ws", "http_url": "https://api.aipowergrid.io"}
    return GridSettings(**{**usual, "api_key": "grid_secret", "name": "rig", **fields})


@pytest.mark.parametrize(
    ("url", "goes_to"),
    [
        ("wss://api.aipowergrid.io", "wss://ws.aipowergrid.io/v1/workers/ws"),
        ("wss://api.aipowergrid.io/v1/workers/ws", "wss://ws.aipowergrid.io/v1/workers/ws"),
        ("wss://grid.example:8443/", "wss://grid.example:8443/v1/workers/ws"),
        ("ws://127.0.0.1:9/x", "ws://127.0.0.1:9/x"),
    ],
)
def test_connections_go_where_sockets_live_long(url, goes_to) -> None:
    assert a_settings(url=url).worker_url == goes_to


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ws://ws.aipowergrid.io"},
        {"url": "https://ws.aipowergrid.io"},
        {"http_url": "http://api.aipowergrid.io"},
        {"http_url": "nowhere"},
        {"api_key": " "},
        {"name": ""},
        {"connections": 0},
        {"margin_seconds": 300.0},
    ],
)
def test_what_cannot_work_or_would_show_the_key_is_refused(wrong) -> None:
    with pytest.raises(ConfigError) as told:
        a_settings(**wrong)

    assert "grid_secret" not in str(told.value)


def test_every_connection_has_a_name_and_none_shows_the_key() -> None:
    settings = a_settings(connections=3)

    assert settings.names == ("rig", "rig-2", "rig-3")
    assert "grid_secret" not in repr(settings)


def test_a_model_name_with_a_slash_stays_one_part_of_the_path() -> None:
    assert str(a_settings().recipe_url("FLUX.2 Klein")) == "https://api.aipowergrid.io/v1/models/FLUX.2%20Klein/recipe"


def test_further_certificate_authorities_come_on_top_of_the_systems(tmp_path) -> None:
    file = tmp_path / "origin.pem"
    file.write_bytes(trustme.CA().cert_pem.bytes())

    context = trusting("wss://grid.example/", file)

    assert context is not None
    assert context.cert_store_stats()["x509_ca"] == ssl.create_default_context().cert_store_stats()["x509_ca"] + 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert trusting("wss://grid.example/", None) is None


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_refused_by_name(tmp_path, content) -> None:
    file = tmp_path / "origin.pem"
    if content is not None:
        file.write_text(content)

    with pytest.raises(ConfigError, match=r"grid_ca_file .*must hold PEM certificates"):
        trusting("wss://grid.example/", file)


@pytest.mark.parametrize("host", ["ws.aipowergrid.io", "api.aipowergrid.io"])
def test_the_live_grids_certificate_is_trusted_without_a_file(host: str) -> None:
    context = trusting(f"wss://{host}/v1/workers/ws", None)

    assert context is not None
    units = {value for entry in context.get_ca_certs() for part in entry["subject"] for name, value in part
             if name == "organizationalUnitName"}  # fmt: skip
    assert "CloudFlare Origin SSL Certificate Authority" in units
    assert context.check_hostname
