import pytest
from google.protobuf.json_format import ParseDict

from masche.wire.framing import WireError
from masche.wire.messages import any_of, decode, encode
from masche.wire.pool import message_class, pool

CLUSTER = "envoy.config.cluster.v3.Cluster"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def body(timeout, limit):
    return {
        "name": "orders",
        "type": "EDS",
        "connect_timeout": timeout,
        "lb_subset_config": {"default_subset": {"zone": "a", "fast": True, "list": [1.0, None, {"x": "y"}]}},
        "circuit_breakers": {"thresholds": [{"max_requests": limit}]},
        "typed_extension_protocol_options": {
            OPTIONS: {"@type": f"type.googleapis.com/{OPTIONS}", "upstream_http_protocol_options": {"auto_sni": True}}
        },
    }


def test_a_body_is_encoded_as_protobufs_own_json_mapping_would() -> None:
    expected = ParseDict(body("1.500s", 7), message_class(CLUSTER)(), descriptor_pool=pool())
    assert encode(CLUSTER, body(1.5, 7)) == expected.SerializeToString(deterministic=True)


def test_what_was_encoded_is_decoded_again() -> None:
    assert decode(CLUSTER, encode(CLUSTER, body(1.5, 7))) == body("1.500s", 7)


def test_a_packed_part_gives_the_same_bytes_as_its_body() -> None:
    packed = {
        **body(1.5, 7),
        "typed_extension_protocol_options": {
            OPTIONS: any_of(OPTIONS, {"upstream_http_protocol_options": {"auto_sni": True}})
        },
    }
    assert encode(CLUSTER, packed) == encode(CLUSTER, body(1.5, 7))


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"nmae": "x"}, r"Cluster\.nmae: .* no such field"),
        ({"circuit_breakers": {"thresholds": [{}, {"max": 1}]}}, r"Cluster\.circuit_breakers\.thresholds\[1\]\.max: "),
        ({"type": "EDDS"}, r"Cluster\.type: 'EDDS' is none of"),
        ({"connect_timeout": "1s"}, r"Cluster\.connect_timeout: a duration"),
        ({"circuit_breakers": []}, r"Cluster\.circuit_breakers: .* mapping"),
        ({"circuit_breakers": {"thresholds": "x"}}, r"Cluster\.circuit_breakers\.thresholds: a sequence"),
        ({"typed_extension_protocol_options": {"a": {"x": 1}}}, r"options\['a'\]: an Any names its type"),
        ({"typed_extension_protocol_options": {"a": {"@type": OPTIONS, "x": 1}}}, r"HttpProtocolOptions\.x: "),
        ({"type": "EDS", "cluster_type": {"name": "x"}}, r"Cluster\.cluster_type: type is set already"),
        ({"name": 7}, "envoy.config.cluster.v3.Cluster: "),
    ],
)
def test_a_mistake_in_a_body_names_its_path(wrong, path) -> None:
    with pytest.raises(WireError, match=path):
        encode(CLUSTER, wrong)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(WireError, match=CLUSTER):
        decode(CLUSTER, b"\xff\xff")
