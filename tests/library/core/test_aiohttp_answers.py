"""Answers that are read at a glance, held to aiohttp."""

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any, cast

import aiohttp
import pytest
from aiohttp.helpers import TimerNoop
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from library.core.test_usual_heads import BODIES, FIRST, NAMES, VALUES
from masche.library.core.aiohttp_answers import TAKES_WRITER, Glanced, Handler, glance

WRITER = (
    {"stream_writer": cast("Any", type("Writer", (), {"output_size": 0}))}
    if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters
    else {}
)


ASKED = type("Asked", (), {"request_info": type("Info", (), {"real_url": URL("http://orders/")})})


class Connection:
    """As much of a connection as an answer asks for."""

    def __init__(self, protocol: Handler) -> None:
        self.protocol: Handler | None = protocol
        self.is_released = self.is_closed = False

    def release(self) -> None:
        self.is_released, self.protocol = True, None

    def close(self) -> None:
        self.is_closed, self.protocol = True, None


class Transport(asyncio.Transport):
    """A transport that goes nowhere."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, data: Any) -> None: ...


def handler(*, glances: bool = True) -> Handler:
    made = Handler(asyncio.get_running_loop())
    made.connection_made(Transport())
    made.set_response_params(timer=TimerNoop(), read_until_eof=True, read_bufsize=2**16)
    made.glances = glances
    return made


def answer(connection: Connection) -> "tuple[Glanced, Awaitable[Any]]":
    made = Glanced(
        "GET", URL("http://orders/"), writer=cast("Any", None), continue100=None, timer=TimerNoop(),
        request_info=cast("Any", None), traces=[], loop=asyncio.get_running_loop(), session=cast("Any", None), **WRITER,
    )  # fmt: skip
    made.asked = cast("Any", ASKED)
    return made, made.start(cast("Any", connection))


async def read(data: bytes, *, glances: bool, ends: bool = True) -> object:
    """All that can be asked of an answer."""
    protocol = handler(glances=glances)
    connection = Connection(protocol)
    made, started = answer(connection)
    try:
        protocol.data_received(data)
        if ends:
            protocol.connection_lost(None)
        await started
        said = (made.version, made.status, made.reason, list(made.headers.items()), made.raw_headers, made.cookies)
        try:
            body: object = await made.read()
        except aiohttp.ClientError as error:
            body = type(error)
        return said, body, connection.is_released, made.closed, made.content.at_eof(), made.content.total_bytes
    except (aiohttp.ClientError, ValueError) as error:
        return type(error), str(error)
    finally:
        made.close()


USUAL = st.sampled_from(["Content-Type", "server", "Date", "X-Other", "x_y"])
SAID = st.sampled_from(["text/plain", "", "a b", "a: b", "a,b"])
ODD = st.tuples(
    NAMES | st.sampled_from(["Set-Cookie", "Content-Encoding", "Upgrade", "x.y"]),
    st.sampled_from([": ", ": ", ":", ":\t", " : ", ":  ", ""]),
    VALUES,
    st.sampled_from(["\r\n"] * 8 + ["\n", "\r\n ", "\r"]),
)
LINES = st.lists(st.tuples(USUAL, st.just(": "), SAID, st.just("\r\n")), max_size=4, unique_by=lambda line: line[0])
"""Usual ones, among which ``ODD`` come."""


@given(
    st.just("HTTP/1.1 200 OK\r\n") | FIRST,
    LINES,
    st.none() | st.none() | ODD,
    st.sampled_from([0, 0, 0, 1, None]),
    BODIES,
)
def test_every_answer_is_what_aiohttp_makes_of_it(
    first: str, lines: list[tuple[str, ...]], odd: tuple[str, ...] | None, wrong: int | None, content: bytes
) -> None:
    counted = "" if wrong is None else f"Content-Length: {len(content) + wrong}\r\n"
    said = "".join("".join(line) for line in [*lines, odd or ()])
    head = f"{first}{said}{counted}\r\n".encode("latin-1")

    async def both() -> tuple[object, object]:
        return await read(head + content, glances=True), await read(head + content, glances=False)

    glanced, own = asyncio.run(both())
    assert glanced == own


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    ("data", "is_usual"),
    [
        (OK, True),
        (OK.replace(b"200 OK", b"404 Not Found"), True),
        (OK.replace(b"200 OK", b"304 No"), False),
        (OK + b"d", False),
        (OK[:-1], False),
        (OK.replace(b"text", b" text"), False),
        (OK.replace(b"text", b"t\xe4xt"), False),
        (OK.replace(b"Content-Type", b"Content-Encoding"), False),
        (OK.replace(b"Content-Type", b"Connection"), False),
        (OK.replace(b"Content-Type", b"Set-Cookie"), False),
        (OK.replace(b"Content-Type", b"Content-Length"), False),
        (OK.replace(b"Content-Type", b"Transfer-Encoding"), False),
        (OK.replace(b"length: 3", b"length: +3"), False),
        (OK.replace(b"text", b"a" * 8000), False),
        (OK.replace(b"Content-Type", b"A: b\r\n" * 70 + b"B"), False),
    ],
)
def test_the_usual_is_read_at_a_glance_and_nothing_else(data: bytes, is_usual: bool) -> None:
    assert (glance(data) is not None) is is_usual


async def glanced() -> tuple[Glanced, Connection]:
    protocol = handler()
    connection = Connection(protocol)
    made, started = answer(connection)
    protocol.data_received(OK)
    await started
    return made, connection


async def test_an_answer_that_came_whole_has_given_its_connection_back() -> None:
    made, connection = await glanced()
    assert connection.is_released
    assert (made.closed, made.connection) == (True, None)
    assert await made.json(content_type=None, loads=str) == "abc"
    assert made.content_type == "text/plain"
    assert "200" in repr(made)


async def test_a_body_is_read_by_pieces_all_the_same() -> None:
    made, _ = await glanced()
    assert [each async for each in made.content.iter_chunked(2)] == [b"ab", b"c"]
    assert await made.read() == b""


async def test_what_was_released_is_not_read_any_more() -> None:
    for way in ("read", "content"):
        made, _ = await glanced()
        made.release()
        with pytest.raises(aiohttp.ClientConnectionError, match="Connection closed"):
            await (made.read() if way == "read" else made.content.read())
    made, _ = await glanced()
    async with made:
        assert await made.text() == "abc"
    with pytest.raises(aiohttp.ClientConnectionError, match="Connection closed"):
        await made.read()


async def test_what_nobody_asked_for_closes_a_connection_that_rests() -> None:
    made, connection = await glanced()
    protocol = handler()
    protocol.data_received(OK)
    await protocol.read()
    transport = cast("Transport", protocol.transport)
    protocol.data_received(OK)
    assert transport.is_closed
    assert not protocol.is_connected()
    assert connection.is_released
    made.close()


async def test_a_second_answer_is_read_as_the_first() -> None:
    protocol = handler()
    for data in (OK, OK.replace(b"length: 3", b"length: 4").replace(b"abc", b"ab"), OK):
        connection = Connection(protocol)
        made, started = answer(connection)
        protocol.data_received(data)
        if data[-1:] == b"b":
            protocol.data_received(b"cd")
        await started
        assert await made.read() in (b"abc", b"abcd")
        assert connection.is_released
        protocol.set_response_params(timer=TimerNoop(), read_until_eof=True, read_bufsize=2**16)
        protocol.glances = True


@pytest.mark.parametrize("url", ["http://orders/", "http://orders/a#b"])
async def test_an_answer_is_made_with_the_fields_that_aiohttp_makes_of_it(url: str):
    async with aiohttp.ClientSession() as session:
        fields = {
            "method": "GET",
            "original_url": URL(url),
            "_timer": TimerNoop(),
            "_traces": [],
            "loop": asyncio.get_running_loop(),
            "_session": session,
        }
        asked = cast("Any", ASKED)
        if not TAKES_WRITER:
            return
        assert vars(Glanced.of(fields, asked, 17)) == vars(Glanced.as_ever(fields, asked, 17))


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_answer_whose_connection_ends_before_it_is_read_ends_with_it(framing: bytes) -> None:
    """As some event loops tell it, which read until the end before anybody else is heard."""
    protocol = handler()
    waiter = protocol.asked(b"", at=0.0)
    protocol.data_received(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n2\r\n")
    protocol.connection_lost(None)
    assert await waiter is None
    protocol.set_response_params(timer=TimerNoop(), read_until_eof=True, read_bufsize=2**16)
    made, started = answer(Connection(protocol))
    await started
    async with asyncio.timeout(5):
        if framing:
            with pytest.raises(aiohttp.ClientPayloadError):
                await made.read()
        else:
            assert await made.read() == b"2\r\n"
