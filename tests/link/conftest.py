"""Fixtures of the link: an authority, a control plane, its TLS servers, and clients that are ended."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from link.plane import DOMAIN, Mutual, Plane, hello
from masche.identity.authority import Authority
from masche.link.client import LinkClient, Target


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority", DOMAIN, now=time.time(), audit=lambda _: None)


@pytest.fixture
def plane(authority: Authority) -> Plane:
    return Plane(authority)


@pytest.fixture
async def mutual(plane: Plane) -> AsyncIterator[Mutual]:
    made = Mutual(plane)
    await made.link.start()
    await made.joining.start()
    yield made
    await made.link.stop(0)
    await made.joining.stop(0)


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Callable[[Target], LinkClient]]:
    """Makes running clients, and ends them."""
    running: list[asyncio.Task[None]] = []

    def make(target: Target) -> LinkClient:
        client = LinkClient([target], hello, rng=Random(1))
        running.append(asyncio.ensure_future(client.run()))
        return client

    yield make
    for task in running:
        assert not task.done(), task
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
