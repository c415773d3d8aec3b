"""A WSGI application on an ASGI server of the mesh."""

import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from library.server.conftest import Caller
from library.server.serving import Served, serving
from masche.library import peer
from masche.library.core import trace
from masche.library.core.tls import Certificates
from masche.library.inbound.wsgi import Environ, StartResponse, as_asgi, is_wsgi
from masche.model.view import MtlsMode

WEB = "spiffe://mesh.local/ns/shop/sa/web"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/boom":
        raise RuntimeError("boom")
    body = environ["wsgi.input"].read()
    caller, at = peer.current(), trace.current()
    told: dict[str, Any] = {
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "host": environ["HTTP_HOST"],
        "peer": str(caller) if caller else None,
        "in_environ": str(environ["masche.peer"]),
        "trace": at.parent if at else None,
        "length": len(body),
        "thread": threading.current_thread().name,
    }
    start_response("200 OK", [("content-type", "application/json")])
    text = json.dumps(told).encode()
    return [text[:10], text[10:]]


@pytest.fixture
def served(ours: Certificates) -> Iterator[Served]:
    with serving(ours, as_asgi(app)) as running:
        running.told(mtls=MtlsMode.PERMISSIVE)
        yield running


def test_it_knows_its_caller_and_its_trace_in_its_own_thread(served: Served, caller: Caller):
    body = b"x" * 200_000
    headers = (("traceparent", PARENT),)
    status, _, said = served.ask(
        "/a//b?x=%20", context=caller("web"), method="POST", body=body, headers=headers, host="orders"
    )
    told = json.loads(said)
    assert (status, told["peer"], told["in_environ"], told["trace"]) == (200, WEB, WEB, PARENT)
    assert (told["path"], told["query"], told["host"], told["length"]) == ("/a/b", "x=%20", "orders", len(body))
    assert told["thread"].startswith("masche-wsgi")
    assert json.loads(served.ask("/")[2])["peer"] is None


def test_a_failing_wsgi_application_is_counted_as_such(served: Served, caller: Caller):
    assert served.ask("/boom", context=caller("web"))[0] == 500
    assert served.counts()[0].status == 500


def test_wsgi_is_told_from_asgi_by_its_arguments():
    async def asgi(scope: object, receive: object, send: object) -> None:
        """ASGI."""

    class Framework:
        def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            return app(environ, start_response)

    class Asynchronous:
        async def __call__(self, scope: object, receive: object, send: object) -> None:
            """ASGI."""

    assert is_wsgi(app)
    assert is_wsgi(Framework())
    assert not is_wsgi(asgi)
    assert not is_wsgi(Asynchronous())
