"""grpcio servers behind a door: who calls is verified, policies hold, every call is counted once, sync and asyncio."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from library.issuing import Issuing
from masche.identity import keys, tls
from masche.identity.presented import Presented
from masche.identity.spiffe import SpiffeId
from masche.library import peer as peers
from masche.library.core import context as contexts
from masche.library.core import trace
from masche.library.inbound.door import Door
from masche.library.inbound.grpc import AioInterceptor, Interceptor, Judge
from masche.library.inbound.grpc_seen import Visible
from masche.model.view import (
    AdaptiveConcurrency,
    Attribute,
    Condition,
    Decision,
    Inbound,
    InboundPort,
    MtlsMode,
    Pattern,
    PatternKind,
    Policy,
    Protocol,
    Rule,
)
from masche.testing.static_reception import Counted, StaticReception

PORT = 50051
WEB = "mesh.local/ns/shop/sa/web"


def _said() -> bytes:
    peer, at = peers.current(), trace.current()
    return f"{peer} {at.parent if at else '-'}".encode()


class Sync:
    """Handlers of a synchronous server."""

    def who(self, _request: bytes, _context: Any) -> bytes:
        return _said()

    def left(self, _request: bytes, _context: Any) -> bytes:
        return str(contexts.current().at).encode()

    def echo(self, requests: Any, _context: Any) -> Iterator[bytes]:
        for each in requests:
            yield each + b" to " + _said()

    def total(self, requests: Any, _context: Any) -> bytes:
        return str(sum(map(len, requests))).encode()

    def count(self, request: bytes, _context: Any) -> Iterator[bytes]:
        yield from (str(number).encode() for number in range(int(request)))

    def fail(self, request: bytes, context: Any) -> bytes:
        if not request:
            raise RuntimeError("boom")
        return context.abort(getattr(grpc.StatusCode, request.decode()), "as you wished")


class Async:
    """The same as coroutines."""

    async def who(self, _request: bytes, _context: Any) -> bytes:
        return _said()

    async def left(self, _request: bytes, _context: Any) -> bytes:
        return str(contexts.current().at).encode()

    async def echo(self, requests: Any, context: Any) -> None:
        async for each in requests:
            await context.write(each + b" to " + _said())

    async def total(self, requests: Any, _context: Any) -> bytes:
        return str(sum([len(each) async for each in requests])).encode()

    async def count(self, request: bytes, _context: Any) -> Any:
        for number in range(int(request)):
            yield str(number).encode()

    async def fail(self, request: bytes, context: Any) -> bytes:
        if not request:
            raise RuntimeError("boom")
        return await context.abort(getattr(grpc.StatusCode, request.decode()), "as you wished")


def handlers(made: Any) -> Any:
    library: Any = grpc
    methods = {
        "Who": library.unary_unary_rpc_method_handler(made.who),
        "Left": library.unary_unary_rpc_method_handler(made.left),
        "Echo": library.stream_stream_rpc_method_handler(made.echo),
        "Total": library.stream_unary_rpc_method_handler(made.total),
        "Count": library.unary_stream_rpc_method_handler(made.count),
        "Fail": library.unary_unary_rpc_method_handler(made.fail),
    }
    return library.method_handlers_generic_handler("tests.Greeter", methods)


@dataclass
class Served:
    """A server, and callers with and without a certificate."""

    mesh: Issuing
    reception: StaticReception
    counted: Counted
    port: int = 0
    channels: list[Any] = field(default_factory=list)

    def call(
        self, method: str, request: Any = b"", *, kind: str = "unary_unary", account: str = "web", **more: Any
    ) -> Any:
        channel = self.channel(account)
        made: Any = getattr(channel, kind)(f"/tests.Greeter/{method}")
        return made(request, timeout=10, **more)

    def channel(self, account: str) -> grpc.Channel:
        chain, key = self.mesh.pair(account)
        made = self.presenting(Presented(chain=chain, key=keys.private_pem(key), roots=self.mesh.roots))
        self.channels.append(made)
        return made

    def presenting(self, shown: Presented) -> grpc.Channel:
        credentials = tls.channel_credentials(shown)
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options=tls.CHANNEL_OPTIONS)

    def told(self, *policies: Policy, **more: Any) -> None:
        ports = (InboundPort(target=PORT, protocol=Protocol.GRPC, **more),)
        self.reception.told = {PORT: Inbound(policies=policies, ports=ports)}

    def statuses(self, number: int = 1) -> list[int]:
        end = time.monotonic() + 5
        while len(self.counted.requests) < number:
            assert time.monotonic() < end, self.counted.requests
            time.sleep(0.005)
        return self.counted.statuses()


def _shown(mesh: Issuing) -> Presented:
    """A name that a caller in a test can verify: gRPC for Python compares host names, and SPIFFE IDs only by xDS."""
    key = keys.generate()
    issued = mesh.authority.sign_control_plane(keys.signing_request(key), (), now=time.time())
    return Presented(chain=issued.chain, key=keys.private_pem(key), roots=mesh.roots)


@contextmanager
def _synchronous(judge: Judge, credentials: grpc.ServerCredentials) -> Iterator[int]:
    server: Any = grpc.server(ThreadPoolExecutor(8), interceptors=[Interceptor(judge)])
    server.add_generic_rpc_handlers((handlers(Sync()),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


@contextmanager
def _asynchronous(judge: Judge, credentials: grpc.ServerCredentials) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[Any, int]:
        server: Any = grpc.aio.server(interceptors=[AioInterceptor(judge)])
        server.add_generic_rpc_handlers((handlers(Async()),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


KINDS: dict[str, Callable[..., Any]] = {"sync": _synchronous, "asyncio": _asynchronous}


@pytest.fixture(params=KINDS)
def served(mesh: Issuing, request: pytest.FixtureRequest) -> Iterator[Served]:
    made = Served(mesh, StaticReception(), Counted())
    made.told()
    door = Door(PORT, workload=lambda: "shop/orders-1", reception=Visible(made.reception), counter=made.counted)
    judge = Judge(door, local=lambda: str(SpiffeId.of_workload("mesh.local", "shop", "orders")))
    presented = _shown(mesh)
    with KINDS[request.param](judge, tls.mutual_server_credentials(lambda: presented)) as port:
        made.port = port
        yield made
        for channel in made.channels:
            channel.close()


def _policy(decision: Decision, *rules: Rule) -> Policy:
    return Policy(name="shop/one", decision=decision, rules=rules)


def _on(attribute: Attribute, value: str, name: str = "") -> tuple[Condition, ...]:
    return (Condition(attribute=attribute, name=name, values=(Pattern(PatternKind.EXACT, value),)),)


FROM_WEB = Rule(name="shop/one rules[0]", sources=(_on(Attribute.PRINCIPAL, WEB),))
TO_WHO = Rule(name="shop/one rules[0]", operations=(_on(Attribute.PATH, "/tests.Greeter/Who"),))


def code_of(ask: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        ask()
    return refused.value


def test_a_handler_knows_its_caller_and_the_trace_whatever_its_kind(served: Served):
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    who = f"spiffe://{WEB} {parent}".encode()
    trailing = {"metadata": (("traceparent", parent),)}
    assert served.call("Who", **trailing) == who
    said = list(served.call("Echo", iter([b"a", b"b"]), kind="stream_stream", **trailing))
    assert said == [b"a to " + who, b"b to " + who]
    assert served.call("Total", iter([b"aa", b"b"]), kind="stream_unary") == b"3"
    assert list(served.call("Count", b"3", kind="unary_stream")) == [b"0", b"1", b"2"]
    assert served.statuses(4) == [200] * 4
    assert {each.peer for each in served.counted.requests} == {f"spiffe://{WEB}"}
    assert peers.current() is None


def test_who_is_denied_learns_the_rule_and_the_handler_hears_nothing(served: Served):
    served.told(_policy(Decision.DENY, FROM_WEB))
    error: Any = code_of(lambda: served.call("Who"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert dict(error.trailing_metadata())["x-masche-denied"] == "shop/one rules[0]"
    assert served.statuses() == [403]
    assert served.call("Who", account="other").startswith(b"spiffe://mesh.local/ns/shop/sa/other")


def test_a_stream_is_judged_before_its_first_message(served: Served):
    served.told(_policy(Decision.ALLOW, TO_WHO))
    error: Any = code_of(lambda: list(served.call("Count", b"3", kind="unary_stream")))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert served.call("Who")


def test_a_method_that_does_not_exist_is_judged_all_the_same(served: Served):
    error: Any = code_of(lambda: served.call("Nothing"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    served.told(_policy(Decision.ALLOW, TO_WHO))
    error = code_of(lambda: served.call("Nothing"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert served.statuses(2) == [501, 403]


def test_calls_are_counted_by_the_status_that_they_stand_for(served: Served):
    for wish, code in (("NOT_FOUND", "NOT_FOUND"), ("UNAVAILABLE", "UNAVAILABLE"), ("", "UNKNOWN")):
        error: Any = code_of(lambda wish=wish: served.call("Fail", wish.encode()))
        assert error.code().name == code
    assert served.statuses(3) == [404, 503, 500]


def test_a_caller_learns_how_long_the_answer_took(served: Served):
    channel: Any = served.channel("web")
    _, made = channel.unary_unary("/tests.Greeter/Who").with_call(b"", timeout=10)
    assert int(dict(made.initial_metadata())["x-masche-service-us"]) > 0


def test_nobody_comes_in_before_it_is_known_who_may(served: Served):
    served.reception.told = {}
    error: Any = code_of(lambda: served.call("Who"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "waiting for the control plane" in error.details()


def test_what_grpc_does_not_show_widens_no_policy(served: Served):
    """gRPC for Python says neither the host that was asked for, nor its own headers."""
    for attribute, name in (
        (Attribute.HOST, ""),
        (Attribute.HEADER, "grpc-timeout"),
        (Attribute.HEADER, "host"),
        (Attribute.HEADER, "token-bin"),
    ):
        conditions = _on(attribute, "orders", name)
        by_operation = Rule(name="shop/one rules[0]", operations=(conditions,))
        by_source = Rule(name="shop/one rules[0]", sources=(conditions,))
        by_when = Rule(name="shop/one rules[0]", when=conditions)
        for rule in (by_operation, by_source, by_when):
            for decision in (Decision.ALLOW, Decision.DENY):
                served.told(_policy(decision, rule))
                error: Any = code_of(lambda: served.call("Who", metadata=(("token-bin", b"x"),)))
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED, (rule, decision)


def test_a_call_that_is_made_for_another_has_only_what_is_left_of_its_time(served: Served):
    before = time.monotonic()
    left = float(served.call("Left")) - before
    assert 5 < left <= time.monotonic() - before + 10
    channel: Any = served.channel("web")
    assert float(channel.unary_unary("/tests.Greeter/Left")(b"")) > before + 1e6, "nothing was said of its time"


def test_a_rule_on_methods_is_carried_out_as_it_comes_by_xds(served: Served):
    """There a method is a header, ``:method``, and every call of gRPC is a POST."""
    for method, decision, passes in (
        ("POST", Decision.ALLOW, True),
        ("GET", Decision.ALLOW, False),
        ("POST", Decision.DENY, False),
        ("GET", Decision.DENY, True),
    ):
        served.told(_policy(decision, Rule(name="one", operations=(_on(Attribute.HEADER, method, ":method"),))))
        if passes:
            assert served.call("Who")
        else:
            assert code_of(lambda: served.call("Who")).code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("mode", [MtlsMode.STRICT, MtlsMode.PERMISSIVE])
def test_a_caller_of_another_trust_domain_is_refused_even_if_our_authority_signed_it(served: Served, mode: MtlsMode):
    """gRPC lets in whoever our roots vouch for, whatever the name; its handler must never see such a caller."""
    served.reception.told = {PORT: Inbound(mtls=mode)}
    chain, key = served.mesh.odd_pair(x509.UniformResourceIdentifier("spiffe://evil.local/ns/shop/sa/web"))
    shown = Presented(chain=chain, key=keys.private_pem(key), roots=served.mesh.roots)
    with served.presenting(shown) as channel:
        made: Any = channel.unary_unary("/tests.Greeter/Who")
        error: Any = code_of(lambda: made(b"", timeout=5))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "evil.local" in error.details()
    assert served.call("Who").startswith(b"spiffe://mesh.local/")


def test_a_caller_without_a_certificate_is_refused_in_the_handshake(served: Served):
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        made: Any = channel.unary_unary("/tests.Greeter/Who")
        error: Any = code_of(lambda: made(b"", timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert served.counted.requests == []


def test_under_strict_a_plaintext_server_serves_nobody(served: Served):
    """Who forgets the credentials of the mesh has a server that refuses, not one that is open."""
    door = Door(PORT, workload=lambda: "shop/orders-1", reception=Visible(served.reception), counter=served.counted)
    server: Any = grpc.server(ThreadPoolExecutor(2), interceptors=[Interceptor(Judge(door, local=lambda: ""))])
    server.add_generic_rpc_handlers((handlers(Sync()),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        made: Any = channel.unary_unary("/tests.Greeter/Who")
        error: Any = code_of(lambda: made(b"", timeout=5))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        served.reception.told = {PORT: Inbound(mtls=MtlsMode.PERMISSIVE)}
        assert made(b"", timeout=5).startswith(b"None")
    server.stop(0).wait()


def test_who_asks_is_told_how_many_other_calls_there_are(served: Served):
    made: Any = served.channel("web").unary_unary("/tests.Greeter/Who")
    _, call = made.with_call(b"", timeout=10, metadata=(("endpoint-load-metrics-format", "text"),))
    assert dict(call.initial_metadata())["endpoint-load-metrics"] == "TEXT named_metrics.in_flight=0"


def test_a_limit_of_calls_at_a_time_holds(served: Served):
    served.told(concurrency=AdaptiveConcurrency(enabled=True, max_concurrency=1, base_latency=0.01))
    arrived, release = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        arrived.set()
        release.wait(10)
        yield b"a"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: served.call("Total", slowly(), kind="stream_unary"))
        assert arrived.wait(5)
        codes: set[str] = set()
        end = time.monotonic() + 5
        while "UNAVAILABLE" not in codes and time.monotonic() < end:
            try:
                served.call("Who")
            except grpc.RpcError as error:
                answer: Any = error
                codes.add(answer.code().name)
        release.set()
        assert codes == {"UNAVAILABLE"}
        assert first.result(10) == b"1"
