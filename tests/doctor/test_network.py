"""What the doctor says of networks and the clock, with real servers on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding
from trt_worker.doctor.network import MOST_SKEW_SECONDS, examine_networks


@contextmanager
def a_server(date: str, status: int = 200) -> Iterator[str]:
    """A server that gives every request one status and one date; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(status)
            self.send_header("Date", date)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def marks(url: str) -> dict[str, str]:
    config = Config(network="grid", grid_http_url=url, grid_url="ws://127.0.0.1:1")
    return {finding.what: finding.mark for finding in examine_networks(config, {})}


def at(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_server_that_answers_anything_is_reached(status: int) -> None:
    with a_server(at(0), status) as url:
        assert marks(url) == {"network": "ok", "clock": "ok"}


@pytest.mark.parametrize("seconds", [-2 * MOST_SKEW_SECONDS, 2 * MOST_SKEW_SECONDS])
def test_a_clock_that_is_minutes_off_is_a_fault(seconds: float) -> None:
    with a_server(at(seconds)) as url:
        assert marks(url)["clock"] == "fault"


def test_a_date_that_is_none_says_nothing_about_the_clock() -> None:
    with a_server("yesterday") as url:
        assert marks(url)["network"] == "ok"


def test_a_server_that_is_not_there_is_a_fault_with_a_command() -> None:
    with a_server(at(0)) as url:
        pass  # its port is free again

    network, *_ = examine_networks(Config(network="grid", grid_http_url=url, grid_url="ws://127.0.0.1:1"), {})

    assert network.mark == "fault"
    assert network.mend == f"curl -I {url}"


def proxied(environ: dict[str, str]) -> list[Finding]:
    config = Config(network="both", horde_url="http://127.0.0.1:1/api", grid_http_url="https://grid.example")
    return list(examine_networks(config, environ))


def test_the_proxy_is_named_without_its_password_and_with_what_goes_through_it(little_proxy) -> None:
    little_proxy.status = 502
    findings = proxied({"HTTPS_PROXY": f"http://me:secret-word@127.0.0.1:{little_proxy.port}"})

    assert [finding.text for finding in findings if finding.what == "proxy"] == [
        f"{little_proxy.url}, named by HTTPS_PROXY, serves https://grid.example, wss://ws.aipowergrid.io/v1/workers/ws"
    ]
    assert findings[1].text == "https://grid.example: the proxy lets nobody through (HTTP 502)"
    assert little_proxy.asked == ["CONNECT grid.example:443"]
    assert "secret-word" not in str(findings)


def test_a_proxy_that_cannot_be_used_is_a_fault() -> None:
    (fault,) = proxied({"HTTPS_PROXY": "socks5://me:secret-word@host"})

    assert (fault.mark, fault.what) == ("fault", "proxy")
    assert "HTTPS_PROXY" in fault.text
    assert "secret-word" not in str(fault)
