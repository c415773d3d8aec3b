"""Which virtual host an authority belongs to, as gRFC A27 and Envoy search."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model.refs import PortRef
from masche.model.told import Table
from masche.model.view import Backend, Forward, Mirror, PathKind, Redirect, RequestMatch, Route, VirtualHost
from masche.traffic.virtual_hosts import HostIndex, clusters_of, without_port

TABLE = (
    ("orders", "orders:80"),
    ("*.example.org", "*-api.example.org", "*.b.example.org"),
    ("127.*", "[fe80:*", "a.*", "a.b.*"),
    ("*",),
)
HOSTS = tuple(VirtualHost(hosts=hosts, routes=()) for hosts in TABLE)


def found(authority: str, hosts: tuple[VirtualHost, ...] = HOSTS) -> str | None:
    hit = HostIndex(hosts).find(authority)
    if hit is None:
        return None
    assert hit.domain in {domain.lower() for domain in hit.host.hosts}
    return hit.domain


@pytest.mark.parametrize(
    ("authority", "domain"),
    [
        ("orders", "orders"),
        ("ORDERS", "orders"),
        ("orders:80", "orders:80"),
        ("orders:81", "*"),
        ("Orders.", "orders"),
        ("orders.:80", "orders:80"),
        ("x.example.org.", "*.example.org"),
        ("x.example.org", "*.example.org"),
        ("X.b.Example.org", "*.b.example.org"),
        ("x-api.example.org", "*-api.example.org"),
        (".example.org", "*"),
        ("example.org", "*"),
        ("127.0.0.1:80", "127.*"),
        ("[fe80::1]", "[fe80:*"),
        ("a.c", "a.*"),
        ("a.b.c", "a.b.*"),
        ("a.b.example.org", "*.b.example.org"),
        ("*.example.org", "*.example.org"),
        ("*", "*"),
        ("", "*"),
    ],
)
def test_exact_names_come_first_then_the_longest_suffix_then_the_longest_prefix(authority: str, domain: str):
    assert found(authority) == domain


def test_without_a_catch_all_there_is_none():
    assert found("nobody", HOSTS[:3]) is None
    assert found("*", HOSTS[:3]) is None


def test_the_first_virtual_host_that_has_a_name_keeps_it():
    first, second = VirtualHost(hosts=("A",), routes=()), VirtualHost(hosts=("a",), routes=())
    hit = HostIndex((first, second)).find("a")
    assert hit is not None
    assert hit.host is first


def test_a_table_may_ignore_ports():
    index = HostIndex.of(Table(name="t", hosts=HOSTS, ignores_port=True))
    hit = index.find("orders:9999")
    assert hit is not None
    assert hit.domain == "orders"


@pytest.mark.parametrize(
    ("authority", "host"),
    [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1"), ("a:b", "a:b"), (":80", "")],
)
def test_a_port_is_what_stands_after_the_last_colon_of_a_host(authority: str, host: str):
    assert without_port(authority) == host


names = st.text(alphabet="ab.", min_size=1, max_size=5)
domains = st.one_of(names, names.map(lambda name: f"*{name}"), names.map(lambda name: f"{name}*"), st.just("*"))


@given(st.lists(domains, unique=True, max_size=8), names)
def test_the_search_finds_what_looking_at_every_domain_finds(found_domains: list[str], asked: str):
    authority = asked.removesuffix(".")

    def rank(domain: str) -> tuple[int, int] | None:
        if domain == authority:
            return 0, 0
        if domain == "*":
            return 3, 0
        literal = domain.strip("*")
        if len(literal) < len(authority) and domain.startswith("*") and authority.endswith(literal):
            return 1, -len(literal)
        if len(literal) < len(authority) and domain.endswith("*") and authority.startswith(literal):
            return 2, -len(literal)
        return None

    ranked = [(best, domain) for domain in found_domains if (best := rank(domain)) is not None]
    expected = min(ranked)[1] if ranked else None
    assert found(asked, tuple(VirtualHost(hosts=(domain,), routes=()) for domain in found_domains)) == expected


def test_clusters_are_those_of_backends_their_mirrors_the_routes_mirrors_and_tunnels():
    def ref(name: str) -> PortRef:
        return PortRef("ns", name, 80)

    backends = (
        Backend(cluster=ref("a"), mirrors=(Mirror(cluster=ref("b")),)),
        Backend(cluster=ref("off"), weight=0),
        Backend(cluster=None),
        Backend(cluster=ref("away"), redirect=Redirect(host="x")),
    )
    forward = Forward(backends=backends, mirrors=(Mirror(cluster=ref("c")),))
    tunnel = Route(
        name="t", match=RequestMatch(path_kind=PathKind.CONNECT), action=Forward(backends=(Backend(cluster=ref("t")),))
    )
    routes = (tunnel, Route(name="f", match=RequestMatch(), action=forward))
    routes += (Route(name="r", match=RequestMatch(), action=Redirect(host="y")),)
    host = VirtualHost(hosts=("*",), routes=routes)
    assert sorted(clusters_of(host)) == [f"outbound/ns/{name}/80" for name in "abct"]
