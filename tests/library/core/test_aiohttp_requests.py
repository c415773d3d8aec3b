"""Requests that aiohttp would make in the same way, of moulds."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientRequest
from aiohttp.helpers import TimerNoop
from multidict import CIMultiDict
from yarl import URL

from library.core.scripted import mesh
from masche.library.aiohttp import Connector, client_session
from masche.library.core.aiohttp_requests import Asking

URLS = ("http://orders/", "http://orders/a%20b?c=d", "http://orders:81/", "http://orders/#part", "http://me:pw@orders/")


async def made(kind: type[ClientRequest], session: aiohttp.ClientSession, method: str, url: str, **said: Any) -> Any:
    """A request as a session makes it."""
    usual: Mapping[str, Any] = {
        "params": {}, "headers": CIMultiDict(said.pop("headers", {})), "skip_auto_headers": None,
        "data": None, "cookies": session.cookie_jar.filter_cookies(URL(url)), "auth": None,
        "version": aiohttp.HttpVersion11, "compress": None, "chunked": None, "expect100": False,
        "response_class": aiohttp.ClientResponse, "proxy": None, "proxy_auth": None, "timer": TimerNoop(),
        "session": session, "loop": asyncio.get_running_loop(), "ssl": True, "server_hostname": None,
        "proxy_headers": None, "traces": [],
        "trust_env": False,
    }  # fmt: skip
    return kind(method, URL(url), **{**usual, **said})


def said(request: ClientRequest) -> dict[str, Any]:
    """All that a request says."""
    fields = {name: value for name, value in vars(request).items() if name not in {"_timer", "_body", "headers"}}
    return {**fields, "headers": list(request.headers.items()), "body": request.body and request.body.size}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize("url", URLS)
async def test_a_request_of_a_mould_is_as_aiohttp_makes_it(method: str, url: str) -> None:
    facade, _ = mesh()
    others: tuple[dict[str, Any], ...] = (
        {}, {"headers": {"X-Mine": "1", "host": "other"}}, {"data": b"abc"}, {"data": b""}, {"params": {"a": "b"}},
        {"cookies": {"a": "b"}}, {"chunked": True, "data": b"abc"}, {"version": aiohttp.HttpVersion10},
        {"expect100": True}, {"skip_auto_headers": ["user-agent"]}, {"auth": aiohttp.BasicAuth("me", "secret")},
        {"ssl": False}, {"response_class": type("Mine", (aiohttp.ClientResponse,), {})},
        {"headers": {"x-long": "a" * 5000}},
    )  # fmt: skip
    async with client_session(facade) as session:
        for _ in range(2):
            for each in others:
                own = await made(ClientRequest, session, method, url, **each)
                moulded = await made(Asking, session, method, url, **each)
                assert {**said(moulded), "_continue": None} == {**said(own), "_continue": None}


async def test_what_is_done_to_one_request_is_not_done_to_the_next() -> None:
    facade, _ = mesh()
    async with client_session(facade) as session:
        for _ in range(3):
            one = await made(Asking, session, "GET", "http://orders/")
            assert "x-mine" not in one.headers
            one.headers["x-mine"] = "1"
            one.body = b"abc"


async def test_moulds_are_few_and_small() -> None:
    facade, _ = mesh()
    async with client_session(facade) as session:
        assert isinstance(session.connector, Connector)
        for number in range(1000):
            await made(Asking, session, "GET", "http://orders/", headers={"x-number": str(number)})
        await made(Asking, session, "GET", "http://orders/", headers={"x-long": "a" * 5000})
        assert 0 < len(session.connector.saids.moulds) <= 256
