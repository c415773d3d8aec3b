"""What a connection does with odd, slow or hostile peers: a hand-written end of HTTP/2 says what none would."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamEnded
from h2.settings import SettingCodes, Settings

from masche.rpc.channel import Channel
from masche.rpc.connection import Quiet
from masche.rpc.status import Code, RpcError

QUIET = Quiet(60.0, 60.0)
MOST = 8 << 20
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
DONE = [("grpc-status", "0")]
ONE = b"\0\0\0\0\1x"


class Peer:
    """One connection's other end. ``heard`` has every event, ``received`` is how many bytes came."""

    def __init__(self, writer: asyncio.StreamWriter, settings: dict[SettingCodes, int]) -> None:
        self.writer = writer
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.h2.local_settings = Settings(client=False, initial_values=settings)
        self.h2.initiate_connection()
        self.heard: list[Any] = []
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def answer(self, stream: int, *, message: bytes = ONE) -> None:
        """All of an answer."""
        self.h2.send_headers(stream, ANSWER)
        self.h2.send_data(stream, message)
        self.h2.send_headers(stream, DONE, end_stream=True)
        self.flush()

    def streams(self) -> list[int]:
        return [event.stream_id for event in self.heard if isinstance(event, RequestReceived)]


Act = Callable[[Peer, Any], None]


@asynccontextmanager
async def facing(
    folder: Path, act: Act = lambda peer, event: None, **settings: int
) -> AsyncIterator[tuple[Channel, list[Peer]]]:
    """A channel to a peer that acts on each event."""
    peers: list[Peer] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer, {SettingCodes[name]: value for name, value in settings.items()})
        peers.append(peer)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for event in peer.h2.receive_data(data):
                    peer.heard.append(event)
                    act(peer, event)
                peer.flush()
        writer.close()

    async with (
        await asyncio.start_unix_server(serve, folder / "s"),
        Channel(f"unix:{folder}/s", tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel,
    ):
        yield channel, peers


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.005)


async def test_calls_that_nobody_read_leave_room_for_others(tmp_path: Path):
    """ "A receiver that receives a flow-controlled frame MUST always account for its contribution" (RFC 9113, 6.9)."""
    many = b"\0\0\0\x40\0" + bytes(1 << 14)

    def act(peer: Peer, event: Any) -> None:
        match event:
            case RequestReceived():
                peer.h2.send_headers(event.stream_id, ANSWER)
                pour(peer, event.stream_id)
            case StreamEnded():
                peer.h2.send_data(event.stream_id, ONE)
                peer.h2.send_headers(event.stream_id, DONE, end_stream=True)
            case _:
                for stream in peer.streams():
                    pour(peer, stream)

    def pour(peer: Peer, stream: int) -> None:
        with suppress(Exception):  # the stream is gone
            while stream < 21 and peer.h2.local_flow_control_window(stream) >= len(many):
                for at in range(0, len(many), 1 << 14):
                    peer.h2.send_data(stream, many[at : at + (1 << 14)])

    async with facing(tmp_path, act) as (channel, _):
        for _ in range(10):
            call = await channel.stream("/s/much")
            await until(lambda call=call: call._owed > 500_000)
            call.cancel()
        assert await channel.unary("/s/one", b"", within=5) == b"x"


async def test_many_unread_calls_hold_no_other_call_up(tmp_path: Path):
    big = b"\0" + (1 << 19).to_bytes(4, "big") + bytes(1 << 19)
    left: dict[int, int] = {}

    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, RequestReceived):
            peer.h2.send_headers(event.stream_id, ANSWER)
            left[event.stream_id] = 0
        for stream in tuple(left):
            while stream < 41 and (size := min(peer.h2.local_flow_control_window(stream), 1 << 14)) > 0:
                at = left[stream] % len(big)
                piece = big[at : at + size]
                left[stream] += len(piece)
                peer.h2.send_data(stream, piece)
        if isinstance(event, StreamEnded):
            peer.h2.send_data(event.stream_id, ONE)
            peer.h2.send_headers(event.stream_id, DONE, end_stream=True)

    async with facing(tmp_path, act) as (channel, _):
        unread = [await channel.stream("/s/much") for _ in range(20)]
        await until(lambda: all(left.get(call._stream, 0) > 1 << 20 for call in unread))
        assert await channel.unary("/s/one", b"", within=5) == b"x"


async def test_a_call_beyond_what_the_other_side_takes_at_once_waits_for_its_turn(tmp_path: Path):
    held: list[int] = []

    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, StreamEnded):
            held.append(event.stream_id)

    async with facing(tmp_path, act, MAX_CONCURRENT_STREAMS=2) as (channel, peers):
        asked = [asyncio.create_task(channel.unary("/s/one", b"", within=10)) for _ in range(5)]
        for _ in range(5):
            await until(lambda: held)
            assert len(held) <= 2
            peers[0].answer(held.pop())
        assert await asyncio.gather(*asked) == [b"x"] * 5


async def test_a_call_for_which_there_is_no_turn_ends_in_time(tmp_path: Path):
    async with facing(tmp_path, MAX_CONCURRENT_STREAMS=1) as (channel, _):
        await channel.stream("/s/much")
        with pytest.raises(RpcError) as late:
            await channel.unary("/s/one", b"", within=0.2)
        assert late.value.code is Code.DEADLINE_EXCEEDED


async def test_the_end_of_what_is_said_needs_no_window(tmp_path: Path):
    """ "Frames with zero length with the END_STREAM flag set ... MAY be sent" without any (RFC 9113, 6.9.1)."""
    async with facing(tmp_path, INITIAL_WINDOW_SIZE=6) as (channel, peers):
        call = await channel.stream("/s/echo")
        await call.write(b"x")
        await asyncio.wait_for(call.done_writing(), 5)
        await until(lambda: any(isinstance(event, StreamEnded) for event in peers[0].heard))


async def test_words_that_are_no_text_end_no_connection(tmp_path: Path):
    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, StreamEnded):
            odd = [*ANSWER, ("grpc-status", "7"), ("grpc-message", b"caf\xe9")]
            peer.h2.send_headers(event.stream_id, odd, end_stream=True)

    async with facing(tmp_path, act) as (channel, _):
        for _ in range(2):
            with pytest.raises(RpcError) as refused:
                await channel.unary("/s/one", b"", within=5)
            assert (refused.value.code, refused.value.details) == (Code.PERMISSION_DENIED, "caf\ufffd")


async def test_who_asks_and_asks_and_hears_nothing_is_left(tmp_path: Path):
    """Answers to pings wait in memory until they are taken: a peer that takes none must not fill it."""
    pings = b"\0\0\x08\6\0\0\0\0\0asking!?" * 500
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        with suppress(ConnectionError):
            while sent < 20 << 20:
                writer.write(pings)
                await writer.drain()
                sent += len(pings)
        writer.transport.abort()

    async with (
        await asyncio.start_unix_server(flood, tmp_path / "s"),
        Channel(f"unix:{tmp_path}/s", tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel,
    ):
        call = await channel.stream("/s/echo")
        with pytest.raises(RpcError, match="takes nothing"):
            await asyncio.wait_for(call.read(), 60)
        assert sent < 10 << 20


async def test_calls_that_ended_well_are_not_reset(tmp_path: Path):
    """Servers count resets, and leave who resets often ("rapid reset", CVE-2023-44487)."""

    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, StreamEnded):
            peer.answer(event.stream_id)

    async with facing(tmp_path, act) as (channel, peers):
        for _ in range(5):
            await channel.unary("/s/one", b"", within=5)
        await channel.close()
        await until(peers[0].writer.is_closing)
        assert {type(event).__name__ for event in peers[0].heard} & {"StreamReset"} == set()


async def test_an_answer_that_is_under_way_comes_although_the_connection_closes(tmp_path: Path):
    """ "Activity on streams numbered lower or equal to the last stream identifier might still complete" (6.8)."""

    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, StreamEnded):
            peer.flush()
            peer.writer.write(b"\0\0\x08\7\0\0\0\0\0" + struct.pack(">LL", 2**31 - 1, 0))
            peer.answer(event.stream_id)

    async with facing(tmp_path, act) as (channel, _):
        stream = await channel.stream("/s/echo")
        assert await channel.unary("/s/one", b"", within=5) == b"x"
        with pytest.raises(RpcError) as gone:
            await asyncio.wait_for(stream.read(), 5)
        assert gone.value.code is Code.UNAVAILABLE
        with pytest.raises(RpcError) as gone:
            await channel.unary("/s/one", b"", within=5)
        assert gone.value.code is Code.UNAVAILABLE


async def test_a_closing_connection_that_was_refused_says_why(tmp_path: Path):
    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, StreamEnded):
            peer.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings", last_stream_id=0)

    async with facing(tmp_path, act) as (channel, _):
        with pytest.raises(RpcError, match="it closes the connection: too_many_pings"):
            await channel.unary("/s/one", b"", within=5)


async def test_empty_messages_that_nobody_reads_are_held_back_too(tmp_path: Path):
    sent = 0

    def act(peer: Peer, event: Any) -> None:
        nonlocal sent
        if isinstance(event, RequestReceived):
            peer.h2.send_headers(event.stream_id, ANSWER)
        for stream in peer.streams():
            while sent < 20 << 20 and (size := min(peer.h2.local_flow_control_window(stream), 10_000)) >= 5:
                size -= size % 5
                peer.h2.send_data(stream, bytes(size))
                sent += size

    async with facing(tmp_path, act) as (channel, peers):
        call = await channel.stream("/s/much")
        await until(lambda: len(call._messages) > 100_000)
        with pytest.raises(RpcError):
            await channel.unary("/s/one", b"", within=0.3)  # which nobody answers
        assert sent < 5 << 20
        assert peers


async def test_who_is_cancelled_while_it_closes_leaves_nothing(tmp_path: Path):
    async with facing(tmp_path) as (channel, peers):
        await channel.ready()
        closing = asyncio.create_task(channel.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await until(peers[0].writer.is_closing)


async def test_a_closed_channel_connects_no_more(tmp_path: Path):
    async with facing(tmp_path) as (channel, peers):
        await channel.close()
        with pytest.raises(RpcError) as closed:
            await channel.ready()
        assert closed.value.code is Code.CANCELLED
        assert not peers


async def test_a_message_that_was_cut_off_ends_its_call(tmp_path: Path):
    """What came after it would be taken for the rest of it."""
    async with facing(tmp_path, INITIAL_WINDOW_SIZE=100) as (channel, _):
        call = await channel.stream("/s/echo")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.write(bytes(1000)), 0.05)
        with pytest.raises(RpcError) as ended:
            await call.write(b"x")
        assert ended.value.code is Code.CANCELLED


@pytest.mark.parametrize(("host", "authority"), [("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}")])
async def test_the_authority_is_written_as_in_a_uri(host: str, authority: str):
    heard: list[str] = []

    def act(peer: Peer, event: Any) -> None:
        if isinstance(event, RequestReceived):
            heard.append(dict(event.headers)[b":authority"].decode())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer, {})
        while data := await reader.read(1 << 16):
            for event in peer.h2.receive_data(data):
                act(peer, event)
            peer.flush()
        writer.close()

    async with await asyncio.start_server(serve, host, 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        async with Channel(target, tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel:
            await channel.stream("/s/echo")
            await until(lambda: heard)
    assert heard == [authority.format(port)]


async def test_each_address_of_a_name_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that swallows what it is sent must not take the time of the others."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.settimeout(0)
            each.connect_ex(("127.0.0.1", port))
        serving = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = Peer(writer, {})
            peer.flush()
            serving.set()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.2", port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]

        async def resolved(*_: Any, **__: Any) -> list[Any]:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        async with server, Channel(f"several.test:{port}", tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel:
            await asyncio.wait_for(channel.ready(), 5)
            assert serving.is_set()
        for each in fillers:
            each.close()


async def test_of_several_addresses_that_refuse_one_speaks(monkeypatch: pytest.MonkeyPatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 9)) for host in ("127.0.0.1", "127.0.0.2")]

    async def resolved(*_: Any, **__: Any) -> list[Any]:
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    async with Channel("several.test:9", tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel:
        with pytest.raises(RpcError) as failed:
            await channel.ready()
    assert failed.value.details == "connection refused"
