"""aiohttp through the mesh: what a user of it sees, and what the services behind see."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from library.answering import Answering
from library.town import Town, living
from masche.library.aiohttp import Connector, client_session, mesh


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with living(tmp_path) as running:
        yield running


@pytest.fixture
async def session(town: Town) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session(town.facade) as made:
        yield made


async def test_a_name_of_the_mesh_is_called_over_mutual_tls(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    async with session.get("http://orders/items?q=a%20b") as answer:
        assert await answer.text() == "orders"
        assert str(answer.url) == "http://orders/items?q=a%20b"
    assert orders.peers == [town.identity.spiffe_id]
    [head] = orders.received
    assert head.startswith(b"GET /items?q=a%20b HTTP/1.1\r\nHost: orders\r\n")
