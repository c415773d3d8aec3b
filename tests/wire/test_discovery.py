from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model.refs import Kind, Ref
from masche.wire import discovery, framing, types
from masche.wire.discovery import RESOURCE, DeltaRequest, Node, SotwRequest, Unpacked
from masche.wire.framing import WireError
from masche.wire.pool import DISCOVERY, message_class

NAMES = st.text(min_size=1, max_size=30)
BLOB = framing.blob(
    types.CLUSTER, "outbound/shop/orders/80", b"\x0a\x06orders", frozenset({Ref(Kind.SERVICE, "shop", "orders")})
)


@given(st.tuples(NAMES, NAMES, st.lists(NAMES), st.lists(NAMES), st.dictionaries(NAMES, NAMES), st.integers(0, 16)))
def test_a_delta_request_survives_being_written_and_read(parts) -> None:
    node_id, nonce, subscribe, unsubscribe, versions, code = parts
    request = DeltaRequest(
        type_url=types.CLUSTER,
        node_id=node_id,
        nonce=nonce,
        error_code=code,
        error_message="no such cluster" if code else "",
        subscribe=tuple(subscribe),
        unsubscribe=tuple(unsubscribe),
        initial_versions=versions,
    )
    assert discovery.decode_delta_request(discovery.encode_delta_request(request)) == request


def test_a_state_of_the_world_request_survives_being_written_and_read() -> None:
    request = SotwRequest(
        type_url=types.LISTENER, node_id="n", version="7", nonce="3", error_code=13, error_message="x"
    )
    assert discovery.decode_sotw_request(discovery.encode_sotw_request(request)) == request


def test_a_rejection_without_a_code_never_reads_as_an_acknowledgement() -> None:
    raw = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")(error_detail={"message": "bad"})
    assert discovery.decode_delta_request(raw.SerializeToString()).error_code != 0


def test_protobuf_reads_what_a_delta_response_was_joined_from() -> None:
    data = discovery.encode_delta_response(types.CLUSTER, "n1", [BLOB.frame, BLOB.frame], ["gone", "away"], "v9")
    raw = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString(data)
    assert (raw.type_url, raw.nonce, raw.system_version_info) == (types.CLUSTER, "n1", "v9")
    assert list(raw.removed_resources) == ["gone", "away"]
    assert [(each.name, each.version) for each in raw.resources] == [(BLOB.name, BLOB.version)] * 2
    assert raw.resources[0].resource.type_url == types.CLUSTER
    assert raw.resources[0].resource.value == framing.message_of(BLOB) == b"\x0a\x06orders"


def test_a_delta_response_is_taken_apart_without_touching_its_frames() -> None:
    data = discovery.encode_delta_response(types.CLUSTER, "n1", [BLOB.frame], ["gone"], "v9")
    response = discovery.decode_delta_response(data)
    assert response.resources == ((BLOB.name, BLOB.version, BLOB.frame),)
    assert (response.type_url, response.nonce, response.version, response.removed) == (
        types.CLUSTER,
        "n1",
        "v9",
        ("gone",),
    )


def test_the_tail_of_a_frame_is_a_frame_of_a_state_of_the_world_response() -> None:
    data = discovery.encode_sotw_response(types.CLUSTER, "n2", [framing.sotw_frame(BLOB)] * 3, "5")
    raw = message_class("envoy.service.discovery.v3.DiscoveryResponse").FromString(data)
    assert (raw.type_url, raw.nonce, raw.version_info) == (types.CLUSTER, "n2", "5")
    assert [each.value for each in raw.resources] == [b"\x0a\x06orders"] * 3
    assert [framing.version_of(each) for each in discovery.decode_sotw_response(data).resources] == [BLOB.version] * 3


def test_the_version_is_the_hash_of_the_content() -> None:
    again = framing.blob(types.CLUSTER, "another name", b"\x0a\x06orders")
    changed = framing.blob(types.CLUSTER, BLOB.name, b"\x0a\x06Orders")
    assert again.version == BLOB.version != changed.version


@pytest.mark.parametrize(
    ("encoded", "decode"),
    [
        (discovery.encode_delta_request(DeltaRequest(type_url="x" * 5000)), discovery.decode_delta_request),
        (discovery.encode_sotw_request(SotwRequest(type_url="x" * 5000)), discovery.decode_sotw_request),
    ],
)
def test_a_request_beyond_the_bounds_is_refused(encoded, decode) -> None:
    with pytest.raises(WireError, match="at most"):
        decode(encoded)
    with pytest.raises(WireError, match="bytes"):
        decode(b"\0" * (discovery.MAX_REQUEST_BYTES + 1))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_but_never_crash(data: bytes) -> None:
    for decode in (
        discovery.decode_delta_request,
        discovery.decode_delta_response,
        discovery.decode_sotw_request,
        discovery.decode_sotw_response,
    ):
        with suppress(WireError):
            assert decode(data).nonce is not None


def test_a_request_carries_a_whole_node_where_its_id_is_too_little():
    node = Node(
        id="me", cluster="shop", metadata={"version": {"of": [1, "two", None]}}, zone="a", features=("xds.config.x",)
    )
    data = discovery.encode_sotw_request(SotwRequest(type_url="t", names=("a",)), node=discovery.encode_node(node))
    assert discovery.decode_sotw_request(data) == SotwRequest(type_url="t", node_id="me", names=("a",))
    raw = message_class("envoy.service.discovery.v3.DiscoveryRequest", DISCOVERY).FromString(data)
    assert raw.node.locality.zone == "a"
    assert raw.node.metadata["version"]["of"][1] == "two"
    assert list(raw.node.client_features) == ["xds.config.x"]


def test_a_resource_is_taken_out_of_its_wrappings_by_its_name():
    inner = framing.packed("t", framing.text(1, "inner") + framing.text(2, "rest"))
    message = framing.text(1, "inner") + framing.text(2, "rest")
    assert discovery.unpacked(inner) == Unpacked("t", "inner", message)
    wrapped = framing.packed(RESOURCE, framing.text(3, "outer") + framing.field(2, inner))
    assert discovery.unpacked(wrapped) == Unpacked("t", "outer", message)
    nameless = framing.packed(RESOURCE, framing.field(2, inner))
    assert discovery.unpacked(nameless) == Unpacked("t", "inner", message)
    with pytest.raises(WireError):
        discovery.unpacked(b"\xff")
