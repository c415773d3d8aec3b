"""What an agent kept on disk serves a local proxy as the control plane would."""

import pytest
from xds_worlds import Proxy, blob, names

from masche.wire import discovery, framing
from masche.wire.framing import WireError
from masche.wire.pool import message_class
from masche.wire.types import CLUSTER, ENDPOINTS, ROUTES
from masche.xds.cache import blob_from_frame, wanted_from_frames
from masche.xds.stream import Stream


def eds_cluster(name: str, **more):
    message = message_class("envoy.config.cluster.v3.Cluster")(name=name, type="EDS", **more)
    return message.SerializeToString(deterministic=True)


def kept(*blobs):
    """Frames as an agent keeps them: read from a response of the control plane."""
    data = discovery.encode_delta_response("", "1", [blob.frame for blob in blobs])
    return discovery.decode_delta_response(data).resources


@pytest.mark.parametrize(
    ("message", "eds_name"),
    [
        (eds_cluster("orders"), "orders"),
        (eds_cluster("orders", eds_cluster_config={"service_name": "elsewhere"}), "elsewhere"),
        (message_class("envoy.config.cluster.v3.Cluster")(name="orders", type="STATIC").SerializeToString(), ""),
        (message_class("envoy.config.cluster.v3.Cluster")(name="orders").SerializeToString(), ""),
    ],
)
def test_a_cluster_comes_back_as_it_was_encoded(message: bytes, eds_name: str):
    original = framing.blob(CLUSTER, "orders", message, eds_name=eds_name)
    (framed,) = kept(original)
    assert blob_from_frame(CLUSTER, framed) == original


def test_a_proxy_is_served_from_the_cache_and_is_sent_nothing_again_by_the_control_plane():
    cluster = framing.blob(CLUSTER, "orders", eds_cluster("orders"), eds_name="orders")
    endpoints, route = blob(ENDPOINTS, "orders"), blob(ROUTES, "orders")
    frames = [(kind.type_url, kept(kind)) for kind in (cluster, endpoints, route)]
    proxy = Proxy(Stream(now=0.0))
    proxy.take(proxy.stream.want(wanted_from_frames(frames), now=0.0))
    assert names(proxy.ask(CLUSTER)) == [("CDS", ["orders"], [])]
    proxy.ask(ENDPOINTS, "orders")
    proxy.settle()
    again = Proxy(Stream(now=0.0), held=proxy.held)
    again.want(cluster, endpoints, route)
    assert again.ask(CLUSTER, initial=dict(proxy.held[CLUSTER])) == []
    assert again.ask(ENDPOINTS, "orders", initial=dict(proxy.held[ENDPOINTS])) == []


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_frame_that_is_not_whole_is_refused(cut: int):
    (framed,) = kept(blob(ROUTES, "orders"))
    with pytest.raises(WireError):
        blob_from_frame(ROUTES, framed._replace(frame=framed.frame[:cut]))
