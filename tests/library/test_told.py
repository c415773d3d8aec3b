"""Instances say with their answers how busy they are, and callers go by it: between the library's own two ends, and
with whoever else speaks ORCA.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import requests

from e2e.waiting import until
from library.answering import Answer, Answering
from library.server.serving import Served, echo, serving
from library.town import Town, service, to
from masche.library.httpx import AsyncTransport
from masche.library.inbound.asgi import App, Receive, Scope, Send
from masche.library.inbound.wsgi import Environ, StartResponse, as_asgi
from masche.model.view import HeaderChange, RequestMatch, Route

REPORT, ASK = "endpoint-load-metrics", "endpoint-load-metrics-format"


def saying(name: str, report: str) -> Answer:
    """Answer with a name, and with a report of load."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n{REPORT}: {report}\r\n\r\n{name}"
    return lambda _head: head.encode()


def busy(town: Town, *under_way: int) -> list[Answering]:
    """Serve orders, by instances that say that they have so much to do."""
    instances = [
        town.instance("orders", saying(str(many), f"TEXT named_metrics.in_flight={many}")) for many in under_way
    ]
    town.serve("orders", *instances)
    return instances


@contextmanager
def ours(town: Town, session: requests.Session, app: App) -> Iterator[Served]:
    """Let a server of the library be orders."""
    with serving(town.issuing.certificates("orders"), app) as served:
        served.told()
        town.told["orders"] = service("orders", town.issuing.name("orders"), f"127.0.0.1:{served.port}")
        try:
            yield served
        finally:
            session.close()


def wsgi(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("content-type", "application/json")])
    return [b"{}"]


def test_calls_go_to_who_says_that_it_has_least_to_do(town: Town, session: requests.Session) -> None:
    busy(town, 8, 0, 8, 8)

    def of_forty() -> int:
        answers = [session.get("http://orders/") for _ in range(40)]
        assert not any(REPORT in each.headers for each in answers)
        return sum(each.text == "0" for each in answers)

    until(
        lambda: of_forty() >= 30, "most calls go there, once no moment is remembered in which this machine stood still"
    )


async def test_a_client_on_a_loop_goes_by_it_as_well(town: Town) -> None:
    busy(town, 8, 0, 8, 8)
    found, began = 0, time.monotonic()
    async with httpx.AsyncClient(transport=AsyncTransport(facade=town.facade)) as client:
        while found < 30:
            assert time.monotonic() - began < 60, f"{found} of 40 calls, after a minute"
            answers = [await client.get("http://orders/") for _ in range(40)]
            found = sum(each.text == "0" for each in answers)
            assert not any(REPORT in each.headers for each in answers)


def test_only_peers_of_the_mesh_are_asked(town: Town, session: requests.Session) -> None:
    [orders] = busy(town, 0)
    session.get("http://orders/")
    assert f"{ASK}: text\r\n".encode() in orders.received[0].lower()
    plain = Answering(None, saying("plain", "TEXT named_metrics.in_flight=0"))
    town.keep(plain)
    old = service("old", "", f"127.0.0.1:{plain.port}", tls=False)
    town.told["old"] = replace(
        old, destinations={n: replace(each, is_tls=False) for n, each in old.destinations.items()}
    )
    assert REPORT not in session.get("http://old/").headers
    assert ASK.encode() not in plain.received[0].lower()


def test_an_application_that_asks_itself_sees_the_report_and_how_it_asked(
    town: Town, session: requests.Session
) -> None:
    [orders] = busy(town, 3)
    answer = session.get("http://orders/", headers={ASK: "JSON"})
    assert answer.headers[REPORT] == "TEXT named_metrics.in_flight=3"
    assert orders.received[0].lower().count(ASK.encode()) == 1
    assert b": json\r\n" in orders.received[0].lower()


def test_what_a_route_takes_off_nobody_sees(town: Town, session: requests.Session) -> None:
    [orders] = busy(town, 3)
    change = HeaderChange(remove=(REPORT,))
    town.serve(
        "orders", orders, route=Route(name="one", match=RequestMatch(), action=to("orders"), response_headers=change)
    )
    assert REPORT not in session.get("http://orders/", headers={ASK: "text"}).headers


def test_what_servers_that_are_not_ours_say_of_their_utilization_counts(town: Town, session: requests.Session) -> None:
    instances = [
        town.instance("orders", saying(name, f'JSON {{"cpu_utilization": {utilization}, "rps_fractional": 100}}'))
        for name, utilization in (("idle", 0.1), ("busy", 0.8))
    ]
    town.serve("orders", *instances)
    for _ in range(20):
        session.get("http://orders/")
    channel = town.facade.channels.get(next(iter(town.told["orders"].destinations)))
    assert channel is not None
    assert "2 weights" in repr(channel.callee.balancer)


def test_reports_that_nobody_understands_change_nothing(town: Town, session: requests.Session) -> None:
    town.serve("orders", town.instance("orders", saying("ok", "JSON {[]]}, TEXT =")))
    assert [session.get("http://orders/").text for _ in range(3)] == ["ok"] * 3


@pytest.mark.parametrize("app", [echo, as_asgi(wsgi)], ids=["asgi", "wsgi"])
def test_our_servers_tell_our_callers(town: Town, session: requests.Session, app: App) -> None:
    with ours(town, session, app) as served:
        for _ in range(2):
            answer = session.get("http://orders/")
            assert (answer.status_code, REPORT in answer.headers) == (200, False)
        channel = town.facade.channels.get(next(iter(town.told["orders"].destinations)))
        assert channel is not None
        assert "1 words" in repr(channel.callee.balancer)
        served.counts(2)
        assert session.get("http://orders/", headers={ASK: "text"}).headers[REPORT] == "TEXT named_metrics.in_flight=0"
        served.counts(3)
        assert served.door.under_way == 0


def test_an_application_may_speak_for_itself(town: Town, session: requests.Session) -> None:
    async def speaking(_scope: Scope, _receive: Receive, send: Send) -> None:
        said = (REPORT.encode(), b"TEXT application_utilization=0.5,rps_fractional=50")
        await send({"type": "http.response.start", "status": 200, "headers": [said, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with ours(town, session, speaking):
        answer = session.get("http://orders/", headers={ASK: "text"})
        assert answer.headers[REPORT] == (
            "TEXT application_utilization=0.5,rps_fractional=50,named_metrics.in_flight=0"
        )


def test_an_application_sees_that_it_is_asked_so_that_one_that_speaks_orca_can_answer(
    town: Town, session: requests.Session
) -> None:
    with ours(town, session, echo):
        got = dict(json.loads(session.get("http://orders/").text)["headers"])
        assert got[ASK] == "text"
