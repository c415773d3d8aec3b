"""The words of the link: versions may differ by one, and nothing bad gets further than the codec."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from link.plane import hello, proxy, scope
from masche.link import messages
from masche.link.messages import MessageError, ProxyState, Report, Scope, ScopeService, SignRequest, Verdict
from masche.model.refs import Name, PortRef
from masche.model.view import Protocol
from masche.telemetry import histogram


def raw(message: msgspec.Struct) -> dict[str, object]:
    return msgspec.msgpack.decode(messages.encode(message))


def test_messages_come_back_as_they_were() -> None:
    assert messages.from_agent(messages.encode(proxy("p1"))) == proxy("p1")
    assert messages.from_control(messages.encode(scope("p1"))) == scope("p1")


def test_a_field_of_a_newer_version_is_ignored() -> None:
    newer = raw(proxy("p1"))
    newer["colour"] = "blue"
    newer["occupants"][0]["seat"]["depth"] = 3  # type: ignore[index] # raw data has no types
    assert messages.from_agent(msgspec.msgpack.encode(newer)) == proxy("p1")


def test_a_message_of_a_newer_version_is_ignored() -> None:
    data = msgspec.msgpack.encode({"type": "dance", "style": "tango"})
    assert messages.from_agent(data) is None
    assert messages.from_control(data) is None


def test_a_field_that_an_older_version_does_not_send_has_its_default() -> None:
    older = raw(hello())
    del older["agent_version"]
    older["agent_version"] = "0.0.9"
    assert "zone" not in older
    assert messages.from_agent(msgspec.msgpack.encode(older)) is not None


@pytest.mark.parametrize(
    "change",
    [{"proxy": ""}, {"proxy": "x" * 254}, {"placement": "moon"}, {"occupants": 5}, {"occupants": [{}]}],
    ids=str,
)
def test_a_wrong_value_is_a_message_error(change: dict[str, object]) -> None:
    with pytest.raises(MessageError):
        messages.from_agent(msgspec.msgpack.encode(raw(proxy("p1")) | change))


def test_the_scope_of_a_large_mesh_can_be_told() -> None:
    services = tuple(
        ScopeService(
            port=PortRef("a-namespace", f"service-{number}", 80),
            protocol=Protocol.HTTP,
            name=f"service-{number}",
            hosts=tuple(f"service-{number}.a-namespace.{suffix}" for suffix in ("svc", "mesh", "svc.cluster.local")),
            addresses=("240.64.100.100", "fd6d:6173:6368::100:100"),
        )
        for number in range(10_000)
    )
    told = Scope(proxy="node~m1", workload=Name("shop", "web"), services=services)
    data = messages.encode(told)
    assert len(data) > messages.MAX_MESSAGE_BYTES
    assert messages.from_control(data) == told
    with pytest.raises(MessageError, match="at most"):
        messages.from_control(b"x" * (messages.MAX_SCOPE_BYTES + 1))


def test_a_message_that_is_too_long_is_neither_sent_nor_read() -> None:
    long = SignRequest(proxy="p", workload=Name("a", "b"), csr=b"x" * 2_000_000)
    with pytest.raises(MessageError, match="2000"):
        messages.encode(long)
    with pytest.raises(MessageError, match="at most"):
        messages.from_agent(b"x" * 2_000_000)
    with pytest.raises(MessageError):
        messages.decode(msgspec.msgpack.encode(long)[:1000000], SignRequest)


@pytest.mark.parametrize("index", [-1, 1153, 1 << 60])
def test_no_bucket_is_taken_that_no_duration_falls_into(index: int) -> None:
    """The bounds of such a bucket would be numbers of gigabytes, for whoever asks for a percentile."""
    forged = {"machine": "m", "epoch": "e", "sequence": 1, "proxies": [{"proxy": "p", "edges": [_edge({index: 1})]}]}
    with pytest.raises(MessageError):
        messages.decode(msgspec.msgpack.encode(forged), Report)


def test_the_longest_duration_has_a_bucket_that_is_taken() -> None:
    longest = histogram.bucket(float(1 << 50))
    told = {"machine": "m", "epoch": "e", "sequence": 1, "proxies": [{"proxy": "p", "edges": [_edge({longest: 1})]}]}
    [read] = messages.decode(msgspec.msgpack.encode(told), Report).proxies
    assert histogram.Histogram(read.edges[0].latency.buckets).quantile(0.5) >= histogram.LARGEST_US


def _edge(buckets: dict[int, int]) -> dict[str, object]:
    return {"direction": "outbound", "workload": ["shop", "web-1"], "latency": {"buckets": buckets}}


def test_a_cause_is_a_clause_and_no_page() -> None:
    told = Verdict(proxy="p", service=PortRef("shop", "orders", 80), endpoint="10.0.0.1:1", is_ejected=True)
    assert messages.from_agent(messages.encode(told)) == told
    with pytest.raises(MessageError):
        messages.from_agent(msgspec.msgpack.encode(raw(told) | {"cause": "x" * 201}))


@given(st.binary(max_size=200))
def test_junk_is_a_message_error_or_unknown(data: bytes) -> None:
    for read in (messages.from_agent, messages.from_control, lambda d: messages.decode(d, ProxyState)):
        try:
            read(data)
        except MessageError:
            continue


def test_deep_nesting_is_a_message_error() -> None:
    with pytest.raises(MessageError):
        messages.from_agent(b"\x91" * 500_000)


def test_no_message_has_a_place_for_a_private_key() -> None:
    for name, kind in vars(messages).items():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields = {field.name for field in msgspec.structs.fields(kind)}
            assert not {f for f in fields if "key" in f or "private" in f or "secret" in f}, name
