"""An application that fails all its callers is asked, and its agent says how it is, and only that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agent.world import free_port, until
from masche.agent import distress
from masche.agent.distress import Distress, Suspect, suspect
from masche.agent.local import Claim, ClaimPort
from masche.agent.verdicts import application, read
from masche.link.messages import Plight
from masche.link.probe import failing
from masche.model.refs import Name
from masche.model.vantage import Seat

ORDERS = Name("shop", "orders-1")


@pytest.mark.parametrize(
    ("cluster", "found"),
    [
        ("inbound/8080", Suspect(workload=None, port=8080)),
        ("inbound/8080/h2", Suspect(workload=None, port=8080)),
        ("inbound/shop/orders-1/8080", Suspect(workload=ORDERS, port=8080)),
        ("inbound/shop/orders-1/8080/h2", Suspect(workload=ORDERS, port=8080)),
        ("inbound", None),
        ("inbound/shop/8080", None),
        ("inbound/h2", None),
        ("outbound/shop/orders/80", None),
        ("", None),
    ],
)
def test_the_name_of_a_cluster_says_whose_application_it_stands_before(cluster: str, found: Suspect | None) -> None:
    assert suspect(cluster) == found


def test_what_envoy_thinks_of_an_application_is_read_without_being_enforced() -> None:
    line = b'{"cluster_name":"inbound/8080","action":"EJECT","enforced":false,"upstream_url":"127.0.0.1:8080"}'
    others = (line.replace(b"EJECT", b"UNEJECT"), line.replace(b"inbound/8080", b"outbound/shop/orders/80"), line[:40])
    found = [each and application(each) for each in map(read, (line, *others))]
    assert found == ["inbound/8080", "", "", None]


@dataclass
class Application:
    """Answers with ``status``, or with what is no HTTP for 0; ``fails``: of so many questions every other with 503.
    ``answers``: so many callers get a good answer whenever its Envoy is looked at.
    """

    port: int = 0
    status: int = 200
    fails: int = 0
    answers: int = 0
    answered: int = 0
    asked: list[bytes] = field(default_factory=list[bytes])

    async def count(self, port: int) -> int:
        assert port == self.port
        self.answered += self.answers
        return self.answered

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readline()).rstrip())
        if self.fails:
            self.fails -= 1
            self.status = 503 if self.fails % 2 else 200
        writer.write(f"HTTP/1.1 {self.status} Said\r\n\r\n".encode() if self.status else b"hello\r\n")
        writer.close()


@dataclass
class Seated:
    """A seat, its application, and what was said of it."""

    app: Application
    distress: Distress
    said: list[Plight]

    def words(self) -> list[bool]:
        return [each.is_well for each in self.said]


@asynccontextmanager
async def seated(health: str = "tcp") -> AsyncIterator[Seated]:
    said: list[Plight] = []
    app = Application(port=free_port())
    claim = Claim(
        service="orders", namespace="shop", service_account="orders", ports=(ClaimPort(port=app.port),), health=health
    )
    seat = Seat(workload=ORDERS, bind="127.0.0.1")
    made = Distress("p", claim, lambda: seat, answered=app.count, tell=said.append)
    server = await asyncio.start_server(app.serve, "127.0.0.1", app.port)
    watching = asyncio.create_task(made.watch())
    async with server:
        yield Seated(app, made, said)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_it_is_said_that_an_application_fails_and_as_soon_as_it_answers_again() -> None:
    async with seated() as seat:
        seat.app.status = 503
        seat.distress.suspect(seat.app.port)
        await until(lambda: seat.said, what="a word")
        first = Plight(proxy="p", workload=ORDERS, port=seat.app.port, is_well=False, cause="GET /: status 503")
        assert seat.said[0] == first
        seat.app.status = 404
        await until(lambda: seat.words()[-1], what="the word that it is well")
        assert set(seat.said[:-1]) == {first}
        assert not seat.distress.ports


async def test_it_is_said_again_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distress, "SOON", 0.01)
    monkeypatch.setattr(distress, "PLIGHT_SECONDS", 0.05)
    async with seated() as seat:
        seat.app.status = 500
        seat.distress.suspect(seat.app.port)
        await until(lambda: len(seat.said) > 3, what="a word again and again")
        assert seat.words() == [False] * len(seat.said)


async def test_calls_that_failed_for_what_they_asked_are_nothing_to_say() -> None:
    async with seated() as seat:
        for status in (200, 401, 404, 0):
            seat.app.status, known = status, len(seat.app.asked)
            seat.distress.suspect(seat.app.port)
            await until(lambda known=known: len(seat.app.asked) > known, what="a question")
        seat.app.status = 503
        seat.distress.suspect(seat.app.port)
        await until(lambda: seat.said, what="a word, after those of which there was none")
        assert seat.words() == [False]


async def test_who_refuses_some_and_answers_others_is_overloaded_and_not_even_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distress, "RESPITE", 0.0)
    async with seated() as seat:
        seat.app.status, seat.app.answers = 503, 1

        def is_left_alone() -> bool:
            seat.distress.suspect(seat.app.port)
            return seat.app.answered >= 8

        await until(is_left_alone, what="four times two looks at its Envoy")
        assert (seat.said, seat.app.asked) == ([], [])
        seat.app.answers = 0
        await until(lambda: is_left_alone() and seat.said, what="a word, now that it answers nobody")


async def test_it_is_asked_what_its_owner_wants_it_to_be_asked() -> None:
    async with seated("http:/up") as seat:
        seat.app.status = 404
        seat.distress.suspect(seat.app.port)
        await until(lambda: seat.said, what="a word")
        assert set(seat.app.asked) == {b"GET /up HTTP/1.1"}
    async with seated("none") as seat:
        seat.app.status = 503
        seat.distress.suspect(seat.app.port)
        await asyncio.sleep(0)
        assert (seat.said, seat.app.asked) == ([], [])


async def test_while_calls_go_on_failing_they_tell_and_it_is_hardly_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distress, "SOON", 0.01)
    monkeypatch.setattr(distress, "CALLED_FOR", 5.0)
    monkeypatch.setattr(distress, "WHILE_CALLED", 3600.0)
    monkeypatch.setattr(distress, "PLIGHT_SECONDS", 0.0)
    async with seated() as seat:
        seat.app.status = 503
        seat.distress.suspect(seat.app.port)
        await until(lambda: seat.said, what="a word")
        for _ in range(20):
            seat.distress.suspect(seat.app.port)
            await asyncio.sleep(0.02)
        assert len(seat.app.asked) <= 3
        monkeypatch.setattr(distress, "CALLED_FOR", 0.01)
        seat.app.status = 200
        await until(lambda: seat.words()[-1], what="the word that it is well, once no calls come")


async def test_one_good_answer_among_bad_ones_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distress, "SOON", 0.01)
    async with seated() as seat:
        seat.app.fails = 20
        seat.distress.suspect(seat.app.port)
        await until(lambda: seat.words()[-1:] == [True], what="the word that it is well")
        assert len(seat.app.asked) > 20


async def test_an_application_that_is_gone_fails() -> None:
    assert "refused" in (await failing("127.0.0.1", free_port())).lower()
