"""Calls of gRPC over a channel of our own, to gRPC's own server: what is said arrives, and every end has its words."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from masche.rpc.call import WAITING, Call
from masche.rpc.channel import Channel, Target
from masche.rpc.connection import Quiet
from masche.rpc.status import Code, RpcError

QUIET = Quiet(60.0, 60.0)
MOST = 8 << 20


class Server:
    """What it heard, and how it answers: by the method's name."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.metadata: dict[str, str] = {}
        self.is_over = asyncio.Event()
        self.left: int | None = None

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.metadata = dict(context.invocation_metadata())
        await context.send_initial_metadata((("who", "me"),))
        try:
            async for request in requests:
                self.heard.append(request)
                yield request
        finally:
            self.is_over.set()

    async def much(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        for number in range(64):
            self.heard.append(b"")
            yield number.to_bytes(2, "big") * (128 << 10)

    async def one(self, request: bytes, context: Any) -> bytes:
        self.left = context.time_remaining()
        return request[::-1]

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you:\n50 % of “no”")
        raise AssertionError

    async def wait(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            self.is_over.set()
        raise AssertionError

    async def deaf(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Reads nothing until it is over."""
        await context.send_initial_metadata(())
        await self.is_over.wait()
        async for request in requests:
            self.heard.append(request)
        yield str(len(self.heard)).encode()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[Server, Any]]:
    library: Any = grpc
    made = Server()
    server = library.aio.server(options=(("grpc.max_receive_message_length", MOST),))
    streams = {name: library.stream_stream_rpc_method_handler(getattr(made, name)) for name in ("echo", "much", "deaf")}
    calls = {name: library.unary_unary_rpc_method_handler(getattr(made, name)) for name in ("one", "refuse", "wait")}
    server.add_generic_rpc_handlers((library.method_handlers_generic_handler("s", {**streams, **calls}),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield made, server
    finally:
        await server.stop(None)


@asynccontextmanager
async def talking(folder: Path, **more: Any) -> AsyncIterator[tuple[Channel, Server, Any]]:
    path = folder / "s.sock"
    async with (
        serving(path) as (server, process),
        Channel(f"unix:{path}", tls=None, **{"quiet": QUIET, "max_receive_bytes": MOST, **more}) as channel,
    ):
        yield channel, server, process


async def test_messages_of_any_size_pass_in_both_directions(tmp_path: Path):
    async with talking(tmp_path) as (channel, server, _):
        call = await channel.stream("/s/echo")
        assert (await call.initial_metadata())["who"] == "me"
        assert server.metadata["user-agent"].startswith("masche/")
        for message in (b"", b"x", bytes(range(256)) * 300, b"y" * (5 << 20)):
            _, answer = await asyncio.gather(call.write(message), call.read())
            assert answer == message
        await call.done_writing()
        assert await call.read() is None
        assert await call.read() is None, "it stays as it ended"
        with pytest.raises(RpcError):
            await call.write(b"late")
        call.cancel()


async def test_calls_share_a_connection(tmp_path: Path):
    async with talking(tmp_path) as (channel, _, _):
        texts = [str(number).encode() * 1000 for number in range(50)]
        assert await asyncio.gather(*(channel.unary("/s/one", text, within=30) for text in texts)) == [
            text[::-1] for text in texts
        ]


async def test_who_reads_nothing_is_sent_no_more_than_is_kept(tmp_path: Path):
    async with talking(tmp_path) as (channel, server, _):
        call = await channel.stream("/s/much")
        await call.done_writing()
        await channel.unary("/s/one", b"other calls go on", within=10)
        await until_still(lambda: call._waiting)
        assert call._waiting <= 3 * WAITING
        got = [message async for message in call]
        assert [message[:2] for message in got] == [number.to_bytes(2, "big") for number in range(64)]
        assert len(server.heard) == 64


async def until_still(look: Any) -> None:
    """Wait until something has not changed for a while."""
    before, still = None, 0
    async with asyncio.timeout(20):
        while still < 20:
            await asyncio.sleep(0.01)
            still = still + 1 if look() == before else 0
            before = look()


async def test_who_writes_more_than_is_taken_waits(tmp_path: Path):
    async with talking(tmp_path) as (channel, server, _):
        call = await channel.stream("/s/deaf")
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(64):
                await call.write(b"z" * (256 << 10))
                written += 1
            await call.done_writing()

        writing = asyncio.create_task(write())
        await until_still(lambda: written)
        assert written < 64
        server.is_over.set()
        await writing
        assert await call.read() == b"64"


async def test_a_refusal_comes_with_its_code_and_all_of_its_words(tmp_path: Path):
    async with talking(tmp_path) as (channel, _, _):
        with pytest.raises(RpcError) as refused:
            await channel.unary("/s/refuse", b"", within=10)
        assert refused.value.code is Code.PERMISSION_DENIED
        assert refused.value.details == "not you:\n50 % of “no”"
        with pytest.raises(RpcError) as refused:
            await channel.unary("/s/nothing", b"", within=10)
        assert refused.value.code is Code.UNIMPLEMENTED


async def test_a_call_that_takes_too_long_ends_on_both_sides(tmp_path: Path):
    async with talking(tmp_path) as (channel, server, _):
        await channel.ready()
        with pytest.raises(RpcError) as late:
            await channel.unary("/s/wait", b"", within=0.2)
        assert late.value.code is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(server.is_over.wait(), 10)
        await channel.unary("/s/one", b"", within=30)
        assert server.left is not None
        assert 20 < server.left <= 30, "the server knows how long it has"


async def test_a_cancelled_call_ends_at_the_server(tmp_path: Path):
    async with talking(tmp_path) as (channel, server, _):
        call = await channel.stream("/s/echo")
        await call.initial_metadata()
        call.cancel()
        await asyncio.wait_for(server.is_over.wait(), 10)
        with pytest.raises(RpcError) as ended:
            await call.read()
        assert ended.value.code is Code.CANCELLED


async def test_a_message_that_is_too_long_ends_its_call_alone(tmp_path: Path):
    async with talking(tmp_path, max_receive_bytes=1000) as (channel, _, _):
        with pytest.raises(RpcError) as ended:
            await channel.unary("/s/one", b"z" * 1001, within=10)
        assert ended.value.code is Code.RESOURCE_EXHAUSTED
        assert "1001 bytes is longer than 1000" in ended.value.details
        assert await channel.unary("/s/one", b"ab", within=10) == b"ba"


async def test_a_server_that_stops_ends_every_call_with_a_reason(tmp_path: Path):
    async with talking(tmp_path) as (channel, _, process):
        call = await channel.stream("/s/echo")
        await call.initial_metadata()
        waiting = asyncio.create_task(call.read())
        await asyncio.sleep(0)
        await process.stop(None)
        with pytest.raises(RpcError) as ended:
            await asyncio.wait_for(waiting, 10)
        assert ended.value.code in {Code.UNAVAILABLE, Code.CANCELLED}
        with pytest.raises(RpcError):
            await channel.unary("/s/one", b"", within=10)


async def test_closing_a_channel_ends_its_calls(tmp_path: Path):
    async with talking(tmp_path) as (channel, _, _):
        call = await channel.stream("/s/echo")
        await channel.close()
        with pytest.raises(RpcError) as ended:
            await call.read()
        assert ended.value.code is Code.CANCELLED


async def test_where_nobody_listens_the_system_says_why(tmp_path: Path):
    cases = {"127.0.0.1:9": "connection refused", f"unix:{tmp_path}/none": "no such file or directory"}
    for target, why in cases.items():
        async with Channel(target, tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel:
            with pytest.raises(RpcError) as failed:
                await channel.ready()
            assert (failed.value.code, failed.value.details) == (Code.UNAVAILABLE, why)


@pytest.mark.parametrize(
    ("said", "code", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.UNAVAILABLE, "does not speak HTTP/2"),
        (b"\0\0\4\x08\0\0\0\0\0\0\0\0\0", Code.UNAVAILABLE, "breaks the rules of HTTP/2"),
        (b"", Code.UNAVAILABLE, "the connection was closed"),
    ],
)
async def test_what_is_no_grpc_is_called_what_it_is(tmp_path: Path, said: bytes, code: Code, why: str):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    async with (
        await asyncio.start_unix_server(answer, tmp_path / "s"),
        Channel(f"unix:{tmp_path}/s", tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel,
    ):
        with pytest.raises(RpcError, match=why) as failed:
            await channel.unary("/s/one", b"", within=10)
        assert failed.value.code is code


async def test_who_falls_silent_is_given_up(tmp_path: Path):
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS, and never again anything
        while await reader.read(1000):
            pass
        writer.close()

    async with (
        await asyncio.start_unix_server(swallow, tmp_path / "s"),
        Channel(f"unix:{tmp_path}/s", tls=None, quiet=Quiet(0.1, 0.1), max_receive_bytes=MOST) as channel,
    ):
        call = await channel.stream("/s/echo")
        with pytest.raises(RpcError) as ended:
            await asyncio.wait_for(call.read(), 10)
        assert ended.value.details == "it did not answer a ping within 0.1 s"


async def test_who_says_nothing_at_all_is_not_connected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("masche.rpc.channel.CONNECT_WITHIN", 0.2)
    ended = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()
        ended.set()

    async with (
        await asyncio.start_unix_server(swallow, tmp_path / "s"),
        Channel(f"unix:{tmp_path}/s", tls=None, quiet=QUIET, max_receive_bytes=MOST) as channel,
    ):
        with pytest.raises(RpcError, match=r"no connection within 0\.2 s"):
            await channel.ready()
        await asyncio.wait_for(ended.wait(), 10)


async def test_who_answers_pings_is_not(tmp_path: Path):
    async with talking(tmp_path, quiet=Quiet(0.05, 20.0)) as (channel, _, _):
        call = await channel.stream("/s/echo")
        await asyncio.sleep(0.5)
        await call.write(b"still here")
        assert await call.read() == b"still here"


async def test_a_server_in_plaintext_is_no_server_in_tls(tmp_path: Path):
    path = tmp_path / "s.sock"
    async with (
        serving(path),
        Channel(f"unix:{path}", tls=ssl.create_default_context(), quiet=QUIET, max_receive_bytes=MOST) as channel,
    ):
        with pytest.raises(RpcError) as failed:
            await channel.ready()
        assert failed.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("localhost:80", "localhost:80"),
        ("10.0.0.1:15012", "10.0.0.1:15012"),
        ("[::1]:80", "[::1]:80"),
        ("::1", "[::1]:443"),
        ("istiod.istio-system.svc", "istiod.istio-system.svc:443"),
        ("dns:///istiod:15010", "istiod:15010"),
        ("dns://8.8.8.8/istiod:15010", "istiod:15010"),
        ("ipv4:127.0.0.1:7", "127.0.0.1:7"),
        ("ipv6:[::1]:7", "[::1]:7"),
        ("unix:/run/x", "unix:/run/x"),
        ("unix:///run/x", "unix:/run/x"),
    ],
)
def test_targets_are_read_as_grpc_reads_them(target: str, found: str):
    assert repr(Target(target)) == found


@pytest.mark.parametrize("target", ["", ":80", "host:port", "host:0", "host:65536", "unix:", "https://host:443"])
def test_what_is_no_target_is_refused(target: str):
    with pytest.raises(ValueError, match=r"write (host:port or )?unix:/path"):
        Target(target)


class Pieces:
    """A carrier that carries nothing."""

    def __init__(self) -> None:
        self.owed = 0
        self.resets: list[int] = []

    async def send(self, stream: int, data: bytes, *, is_last: bool) -> None: ...

    def taken(self, stream: int, size: int) -> None:
        self.owed += size

    def reset(self, stream: int) -> None:
        self.resets.append(stream)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_messages_may_come_in_pieces(size: int):
    carrier = Pieces()
    call = Call(carrier, 1, max_receive_bytes=1000)
    sent = b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in (b"a", b"", b"b" * 99))
    for at in range(0, len(sent), size):
        piece = sent[at : at + size]
        call.data(piece, len(piece))
    call.trailers({"grpc-status": "0"})
    assert [message async for message in call] == [b"a", b"", b"b" * 99]
    assert carrier.owed == len(sent)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\1\0\0\0\1x", Code.INTERNAL), (b"\0\0\0\3\xe9", Code.RESOURCE_EXHAUSTED), (b"\0\0\0\0\5ab", Code.INTERNAL)],
)
async def test_a_message_that_cannot_be_read_is_an_error(data: bytes, code: Code):
    call = Call(Pieces(), 1, max_receive_bytes=1000)
    call.data(data, len(data))
    call.trailers({"grpc-status": "0"})
    with pytest.raises(RpcError) as ended:
        await call.read()
    assert ended.value.code is code
