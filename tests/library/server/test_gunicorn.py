"""gunicorn's worker in the mesh, as far as it can be told without a server."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker

from masche.library.gunicorn import Worker
from masche.library.inbound.introduced import MAX_CONNECTION_AGE, last_until


def test_an_old_connection_is_closed_after_an_answer_that_says_so(monkeypatch: pytest.MonkeyPatch):
    """Whoever stays connected would otherwise keep a certificate alive that has ended, or was revoked."""
    closed: list[str] = []

    def handle_request(_worker: ThreadWorker, req: Any, _conn: Any) -> str:
        return req.name

    monkeypatch.setattr(ThreadWorker, "handle_request", handle_request)
    worker = object.__new__(Worker)
    for name, left in (("young", 10.0), ("old", -1.0)):
        request = SimpleNamespace(name=name, force_close=lambda name=name: closed.append(name))
        connection = SimpleNamespace(last_until=time.monotonic() + left)
        assert worker.handle_request(request, connection) == name
    assert closed == ["old"]
    assert 0.89 * MAX_CONNECTION_AGE < last_until() - time.monotonic() <= MAX_CONNECTION_AGE
