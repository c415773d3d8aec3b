"""Whatever a control plane sends, a decoder gives a value or a sentence for a NACK, and soon."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masche.model.told import Destination, Table, Told, ToldServer
from masche.model.view import Endpoints
from masche.wire import types
from masche.wire.decode.clusters import CLUSTER
from masche.wire.decode.decoders import decoders
from masche.wire.decode.endpoints import ASSIGNMENT
from masche.wire.decode.listeners import LISTENER
from masche.wire.decode.managers import MANAGER
from masche.wire.decode.reading import MAX_BYTES
from masche.wire.decode.routes import TABLE
from masche.wire.framing import WireError, field
from masche.wire.messages import encode

VALUES = (Destination, Endpoints, Told, ToldServer, Table)
TYPES = {types.CLUSTER: CLUSTER, types.ENDPOINTS: ASSIGNMENT, types.LISTENER: LISTENER, types.ROUTES: TABLE}
RUN = settings(deadline=None, max_examples=200, suppress_health_check=[*HealthCheck])

ROUTES = encode(
    TABLE,
    {
        "name": "a",
        "virtual_hosts": [
            {
                "name": "h",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "1"}}]},
                        "route": {
                            "weighted_clusters": {"clusters": [{"name": "c", "weight": 1}, {"name": "d", "weight": 2}]},
                            "timeout": 1.5,
                            "retry_policy": {
                                "retry_on": "5xx",
                                "num_retries": 3,
                                "retry_back_off": {"base_interval": 1},
                            },
                            "hash_policy": [{"header": {"header_name": "x"}}],
                        },
                    }
                ],
            }
        ],
    },
)
PROXYLESS = encode(
    LISTENER,
    {
        "name": "a",
        "api_listener": {
            "api_listener": {
                "@type": f"type.googleapis.com/{MANAGER}",
                "route_config": {"name": "a"},
                "http_filters": [
                    {
                        "name": "router",
                        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                    }
                ],
            }
        },
    },
)


def outcome(type_url: str, data: bytes, name: str = "") -> object:
    try:
        found = decoders[type_url](name, data)
    except WireError as error:
        found = str(error)
    assert isinstance(found, (*VALUES, str))
    assert found
    return found


@RUN
@given(st.sampled_from(sorted(TYPES)), st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_sentence(type_url: str, data: bytes):
    outcome(type_url, data)


@RUN
@given(
    st.sampled_from([(types.ROUTES, ROUTES), (types.LISTENER, PROXYLESS)]),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_a_resource_with_some_other_bytes_gives_a_value_or_a_sentence(sample, changes, is_named: bool):
    type_url, good = sample
    assert isinstance(outcome(type_url, good), VALUES)
    data = bytearray(good)
    for at, byte in changes:
        data[at % len(data)] = byte
    outcome(type_url, bytes(data), "a" if is_named else "")


@RUN
@given(
    st.sampled_from(sorted(TYPES)),
    st.recursive(
        st.binary(max_size=8), lambda inner: st.tuples(st.integers(1, 40), inner).map(lambda each: field(*each))
    ),
)
def test_nested_fields_give_a_value_or_a_sentence(type_url: str, data: bytes):
    outcome(type_url, field(1, b"a") + data)


@pytest.mark.parametrize("depth", [40, 90, 400])
def test_a_rule_that_is_nested_too_deeply_is_refused(depth: int):
    rule = b"\x18\x01"  # any: true
    for _ in range(depth):
        rule = field(8, rule)  # not_rule
    permission = field(1, rule)
    principal = field(2, b"\x18\x01")
    rbac = field(1, b"\x08\x01" + field(2, field(1, b"rule") + field(2, permission + principal)))
    filter_ = field(1, b"rbac") + field(
        4, field(1, b"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC") + field(2, rbac)
    )
    manager = field(4, SERVER_ROUTES) + field(5, filter_)
    network = field(1, b"hcm") + field(4, field(1, f"type.googleapis.com/{MANAGER}".encode()) + field(2, manager))
    with pytest.raises(WireError, match=r"nested more than|no envoy\.extensions"):
        decoders[types.LISTENER]("", field(1, b"a") + field(3, field(3, network)))


SERVER_ROUTES = encode(
    TABLE,
    {
        "virtual_hosts": [
            {"name": "a", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "non_forwarding_action": {}}]}
        ]
    },
)


def test_a_resource_that_is_too_large_is_not_even_parsed():
    for type_url in TYPES:
        with pytest.raises(WireError, match="too large"):
            decoders[type_url]("", bytes(MAX_BYTES + 1))


def test_a_resource_that_calls_itself_otherwise_is_refused():
    with pytest.raises(WireError, match="came under the name 'b'"):
        decoders[types.ROUTES]("b", ROUTES)


def test_what_a_later_envoy_may_know_is_refused_by_its_number():
    with pytest.raises(WireError, match="number 4000"):
        decoders[types.ENDPOINTS]("", field(1, b"a") + field(4000, b"x"))
