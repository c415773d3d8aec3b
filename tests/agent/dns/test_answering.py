"""What becomes of a query: answers from the Scope, at once, and nothing of anybody else's."""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from masche.agent.dns.answering import Answering, Elsewhere, failure, truncated
from masche.agent.dns.names import names
from masche.link.messages import ScopeService
from masche.model.refs import PortRef
from masche.model.view import Protocol

V4, V6 = "240.64.0.9", "fd6d:6173:6368::f040:9"
HOSTS = ("orders", "orders.shop", "orders.shop.svc", "orders.shop.mesh", "orders.shop.svc.cluster.local")
SCOPE = (
    ScopeService(
        port=PortRef(namespace="shop", service="orders", port=80),
        protocol=Protocol.HTTP,
        hosts=HOSTS,
        addresses=(V4, V6),
    ),
    ScopeService(port=PortRef(namespace="bank", service="old", port=80), protocol=Protocol.HTTP, hosts=("old.bank",)),
)
MESH = Answering(names(SCOPE), ("corp.example", "example"))


def ask(name: str, rdtype: str = "A", *, by: Answering = MESH, **options: object) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, **options)  # pyright: ignore[reportArgumentType] - options of many types
    reply = by.decide(query.to_wire())
    assert isinstance(reply, bytes), reply
    message = dns.message.from_wire(reply)
    assert query.is_response(message)
    return message


def found(message: dns.message.Message) -> list[str]:
    return [str(item) for rrset in message.answer for item in rrset]


@pytest.mark.parametrize("host", [*HOSTS, "ORDERS.Shop.mesh", "orders.corp.example", "orders.shop.svc.example"])
def test_every_name_of_a_service_leads_to_its_virtual_addresses(host: str) -> None:
    for rdtype, address in (("A", V4), ("AAAA", V6)):
        reply = ask(host, rdtype)
        assert found(reply) == [address]
        assert reply.answer[0].ttl <= 10
        assert reply.flags & dns.flags.AA
        assert reply.flags & dns.flags.RA


@pytest.mark.parametrize("rdtype", ["HTTPS", "SVCB", "MX", "TXT", "SRV", "ANY", "PTR"])
def test_other_types_of_a_name_of_the_mesh_have_no_data_but_the_name_is_there(rdtype: str) -> None:
    reply = ask("orders", rdtype)
    assert reply.rcode() == dns.rcode.NOERROR
    assert found(reply) == []


def test_without_ipv6_a_name_is_there_all_the_same() -> None:
    by = Answering(names(SCOPE, has_ipv6=False))
    assert found(ask("orders", "A", by=by)) == [V4]
    reply = ask("orders", "AAAA", by=by)
    assert (reply.rcode(), found(reply)) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("host", ["vault.bank.mesh", "mesh", "x.orders.shop.mesh"])
def test_names_of_the_mesh_that_are_not_in_the_scope_do_not_exist_and_are_asked_nowhere(host: str) -> None:
    assert ask(host).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("host", ["example.org", "old.bank", "orders.other", "xorders", "orders.corp.example.org", "."])
def test_what_is_not_of_the_mesh_is_for_others(host: str) -> None:
    query = dns.message.make_query(host, "A")
    decided = MESH.decide(query.to_wire())
    assert isinstance(decided, Elsewhere)
    assert dns.message.from_wire(decided.query).question == query.question
    assert decided.question in query.to_wire()
    assert decided.limit == 512


def test_what_goes_to_others_carries_no_options_of_the_asker_and_asks_for_no_fragments() -> None:
    cookie = dns.edns.GenericOption(10, b"12345678")
    query = dns.message.make_query("example.org", "A", use_edns=0, payload=4096, options=[cookie], want_dnssec=True)
    decided = MESH.decide(query.to_wire())
    assert isinstance(decided, Elsewhere)
    passed = dns.message.from_wire(decided.query)
    assert (passed.edns, passed.payload, passed.options) == (0, 1232, ())
    assert passed.ednsflags & dns.flags.DO
    assert decided.limit == 1232


def test_what_is_not_a_query_is_answered_in_kind_or_not_at_all() -> None:
    query = dns.message.make_query("orders", "A")
    assert MESH.decide(b"") is None
    assert MESH.decide(query.to_wire()[:11]) is None
    assert MESH.decide(dns.message.make_response(query).to_wire()) is None

    def code(wire: bytes) -> dns.rcode.Rcode:
        reply = MESH.decide(wire)
        assert isinstance(reply, bytes)
        return dns.message.from_wire(reply).rcode()

    wire = query.to_wire()
    assert code(wire[:2] + b"\x28\0" + wire[4:]) == dns.rcode.NOTIMP, "an update"
    assert code(wire[:4] + b"\0\2" + wire[6:]) == dns.rcode.FORMERR, "two questions announced"
    assert code(wire[:4] + b"\0\0" + wire[6:]) == dns.rcode.FORMERR, "no question"
    assert code(wire + bytes(1100)) == dns.rcode.FORMERR, "longer than a query can be"
    assert ask("orders", rdclass="CH").rcode() == dns.rcode.REFUSED
    assert ask("orders", use_edns=1).rcode() == dns.rcode.BADVERS


def test_the_same_question_is_answered_alike_under_each_id() -> None:
    query = dns.message.make_query("orders", "A").to_wire()
    first, second = MESH.decide(b"\1\2" + query[2:]), MESH.decide(b"\3\4" + query[2:])
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert (first[:2], second[:2]) == (b"\1\2", b"\3\4")
    assert first[2:] == second[2:]


def test_what_is_remembered_is_bounded() -> None:
    by = Answering(names(SCOPE))
    for index in range(1000):
        by.decide(dns.message.make_query(f"host-{index}.example", "A").to_wire())
    assert int(repr(by).split()[3]) <= 256


def test_failures_and_cut_replies_are_well_formed() -> None:
    query = dns.message.make_query("Example.org", "A")
    decided = MESH.decide(query.to_wire())
    assert isinstance(decided, Elsewhere)
    failed = dns.message.from_wire(failure(decided, query.to_wire()[:2]))
    assert query.is_response(failed)
    assert failed.rcode() == dns.rcode.SERVFAIL
    long = dns.message.make_response(query)
    long.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "TXT", " ".join('"x"' for _ in range(900))))
    cut = dns.message.from_wire(truncated(long.to_wire(), decided.question))
    assert query.is_response(cut)
    assert cut.flags & dns.flags.TC
    assert cut.answer == []


SOME = [
    dns.message.make_query("orders.shop.mesh", "AAAA", use_edns=0, payload=4096).to_wire(),
    dns.message.make_query("www.example.org", "A").to_wire(),
]


def sane(query: bytes) -> None:
    decided = MESH.decide(query)
    if isinstance(decided, Elsewhere):
        passed = dns.message.from_wire(decided.query)
        assert len(passed.question) == 1
        assert len(decided.query) <= 300
        assert 512 <= decided.limit <= 1232
        assert dns.message.from_wire(failure(decided, query[:2])).rcode() == dns.rcode.SERVFAIL
    elif decided is not None:
        assert decided[:2] == query[:2]
        assert decided[2] & 0x80
        assert len(decided) <= 512
        dns.message.from_wire(decided)


@given(st.binary(max_size=1100))
def test_any_bytes_are_decided(query: bytes) -> None:
    sane(query)


@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes_behind_a_header_of_a_query_are_decided(rest: bytes, additional: int) -> None:
    sane(b"\0\1\1\0\0\1\0\0\0\0\0" + bytes((additional,)) + rest)


@given(st.sampled_from(SOME), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4))
def test_altered_queries_are_decided(query: bytes, changes: list[tuple[int, int]]) -> None:
    altered = bytearray(query)
    for at, value in changes:
        altered[at % len(altered)] = value
    sane(bytes(altered))


def test_workloads_with_equal_scopes_share_one_table() -> None:
    """A machine's workloads mostly call the same: a hundred of them would hold ten thousand entries."""
    again = tuple(map(replace, SCOPE))
    assert names(again) is names(SCOPE)
    assert names(SCOPE, has_ipv6=False) is not names(SCOPE)
    assert names(SCOPE[:1]) is not names(SCOPE)
