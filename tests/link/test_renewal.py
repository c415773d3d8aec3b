"""A certificate over time, whoever shows it: what goes wrong beside it takes nothing out of force."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import pytest

from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId
from masche.link.messages import Roots, SignReply, SignRequest
from masche.link.renewal import Kept, Place, Renewal, UnusableError
from masche.model.refs import Name

ORDERS = Name("shop", "orders-1")


@dataclass
class World:
    """A control plane that signs, and a place that shows and keeps; ``changed`` after each thing that happened."""

    authority: Authority
    chain: str = ""
    is_full: bool = False
    is_picky: bool = False
    signed: int = 0
    shown: list[Kept] = field(default_factory=list[Kept])
    kept: list[Kept] = field(default_factory=list[Kept])

    def renewal(self) -> Renewal:
        return Renewal(Place(show=self.show, withdraw=self.shown.clear, keep=self.keep), rng=Random(1))

    def show(self, kept: Kept) -> None:
        if self.is_picky:
            raise UnusableError("these roots are none")
        self.shown.append(kept)

    def keep(self, kept: Kept) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.kept.append(kept)

    async def ask(self) -> tuple[str, Name]:
        return "sidecar~orders-1.shop", ORDERS

    async def sign(self, request: SignRequest) -> SignReply:
        self.signed += 1
        issued = self.authority.sign(
            request.csr, SpiffeId.of_workload("mesh.local", "shop", "orders"), now=time.time(), lifetime=3600.0
        )
        return SignReply(
            chain=self.chain or issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            lifetime=issued.lifetime,
            bundle=Roots(trust_domain="mesh.local", roots=self.authority.bundle.pem),
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Authority.open(tmp_path / "authority", "mesh.local", now=time.time(), audit=lambda _: None))


@asynccontextmanager
async def running(renewal: Renewal, world: World) -> AsyncGenerator[None]:
    task = asyncio.ensure_future(renewal.run(world.ask, world.sign))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_was_signed_and_is_no_certificate_is_said_and_another_is_asked_for(world: World):
    renewal, world.chain = world.renewal(), "not a certificate"
    async with running(renewal, world):
        await until(lambda: "no certificate" in renewal.error)
        assert not renewal.is_held
        world.chain = ""
        await until(lambda: renewal.is_held)
    assert renewal.error == ""


async def test_a_disk_that_is_full_takes_nothing_out_of_force(world: World):
    renewal, world.is_full = world.renewal(), True
    async with running(renewal, world):
        await until(lambda: renewal.error)
    assert renewal.is_held
    assert "No space left" in renewal.report(ORDERS)[0].error


async def test_roots_of_another_trust_domain_are_shown_and_kept_and_no_certificate_is_asked_for(world: World):
    renewal = world.renewal()
    async with running(renewal, world):
        await until(lambda: world.kept)
        renewal.trust(msgspec.structs.replace(world.kept[0].bundle, others={"other.org": "theirs"}))
        await until(lambda: len(world.kept) == 2)
    assert world.kept[1].bundle.others == world.shown[-1].bundle.others == {"other.org": "theirs"}
    assert world.signed == 1


async def test_roots_that_cannot_be_shown_leave_those_of_before_in_force(world: World):
    renewal = world.renewal()
    async with running(renewal, world):
        await until(lambda: world.kept)
        world.is_picky = True
        renewal.trust(Roots(trust_domain="mesh.local", roots="nonsense"))
        assert "these roots are none" in renewal.error
    assert renewal.is_held
    assert renewal.is_valid
    assert len(world.shown) == world.signed == 1


async def test_roots_that_came_between_two_runs_bring_a_certificate_of_theirs_in_the_next(world: World):
    renewal = world.renewal()
    async with running(renewal, world):
        await until(lambda: world.kept)
    renewal.trust(Roots(trust_domain="mesh.local", roots=world.authority.bundle.pem + "\n"))
    async with running(renewal, world):
        await until(lambda: world.signed == 2)


async def test_roots_that_come_while_the_certificate_is_being_kept_are_not_forgotten(world: World):
    held = threading.Event()
    keep, world.keep = world.keep, lambda kept: (held.wait(20), keep(kept))[1]
    renewal = world.renewal()
    async with running(renewal, world):
        await until(lambda: renewal.is_held)
        renewal.trust(Roots(trust_domain="mesh.local", roots=world.authority.bundle.pem + "\n"))
        held.set()
        await until(lambda: world.signed == 2)
