"""The shop's client of the supplier, against a real server that misbehaves."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from example_site import places
from example_site.shop.pricing import SupplierNonsense, SupplierTimeout, SupplierUnavailable, fetch_price


class Supplier(BaseHTTPRequestHandler):
    """Answers /prices/<sku>/ as the test says; a sku without an answer is never answered."""

    answers: ClassVar[dict[str, tuple[int, bytes]]] = {}
    closing: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        answer = self.answers.get(self.path.split("/")[2])
        if answer is None:
            self.closing.wait()
            return
        code, body = answer
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def supplier(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, bytes]]]:
    monkeypatch.setattr(Supplier, "answers", {})
    monkeypatch.setattr(Supplier, "closing", threading.Event())
    with ThreadingHTTPServer(("127.0.0.1", 0), Supplier) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("EXAMPLE_SITE_SUPPLIER_URL", f"http://127.0.0.1:{server.server_port}/")
        yield Supplier.answers
        Supplier.closing.set()
        server.shutdown()
        thread.join()


def test_a_price_is_read(supplier: dict[str, tuple[int, bytes]]) -> None:
    supplier["MUG"] = (200, b'{"sku": "MUG", "price": "11.90"}')
    assert fetch_price("MUG") == Decimal("11.90")


def test_a_proxy_of_the_environment_is_not_asked(
    supplier: dict[str, tuple[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    supplier["MUG"] = (200, b'{"price": "1"}')
    assert fetch_price("MUG") == 1


@pytest.mark.parametrize(
    "body", [b"", b'{"sku": "MU', b"<html>", b"[]", b"{}", b'{"price": "many"}', b'{"price": null}', b"\xff\xfe"]
)
def test_an_answer_that_is_no_price_is_nonsense(supplier: dict[str, tuple[int, bytes]], body: bytes) -> None:
    supplier["MUG"] = (200, body)
    with pytest.raises(SupplierNonsense):
        fetch_price("MUG")


@pytest.mark.parametrize("code", [404, 500, 503])
def test_an_error_code_means_unavailable(supplier: dict[str, tuple[int, bytes]], code: int) -> None:
    supplier["MUG"] = (code, b"Come back later.")
    with pytest.raises(SupplierUnavailable, match=f"HTTP {code}"):
        fetch_price("MUG")


@pytest.mark.usefixtures("supplier")
def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SUPPLIER_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(SupplierTimeout, match=r"within 0\.05 s"):
        fetch_price("MUG")


def test_nobody_listening_means_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        monkeypatch.setenv("EXAMPLE_SITE_SUPPLIER_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        with pytest.raises(SupplierUnavailable):
            fetch_price("MUG")
