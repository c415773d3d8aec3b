"""Both protocols over a real gRPC connection: a raw client on a Unix socket, one item of B6 and B7 each."""

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from xds_plane import Served
from xds_worlds import blob, cluster, world

from masche.testing.fake_proxy import FakeProxy, SotwProxy
from masche.wire.discovery import DeltaRequest, SotwRequest
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.verdict import Sync

ORDERS = "outbound/shop/orders/80"
SHOP = world(
    cluster(ORDERS), blob(ENDPOINTS, ORDERS), blob(LISTENER, ORDERS), blob(ROUTES, ORDERS), blob(LISTENER, "inbound/80")
)


@asynccontextmanager
async def connected(served: Served, node_id: str = "web", **how) -> AsyncIterator[FakeProxy]:
    async with grpc.aio.insecure_channel(served.target) as channel, FakeProxy(channel, node_id, **how) as proxy:
        yield proxy


async def test_a_proxy_that_follows_names_as_envoy_does_gets_everything_and_is_live(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served, follows=True) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.subscribe(LISTENER)
        await proxy.until(lambda: {ENDPOINTS, ROUTES} <= proxy.held.keys())
        await proxy.until(lambda: proxy.names(ROUTES) == {ORDERS})
        await served.plane.until(lambda: served.plane.seats[0].conversation.is_live(SHOP))
        assert proxy.names(LISTENER) == {ORDERS, "inbound/80"}
        for kind, table in SHOP.items():
            assert proxy.versions(kind) == {name: found.version for name, found in table.items()}
            assert {framed.frame for framed in proxy.held[kind].values()} == {found.frame for found in table.values()}


async def test_a_change_reaches_the_proxy_and_only_the_change(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as proxy:
        await proxy.subscribe(ENDPOINTS, ORDERS)
        await proxy.until(lambda: proxy.names(ENDPOINTS))
        update = blob(ENDPOINTS, ORDERS, "two instances")
        served.plane.want("web", world(update))
        await proxy.until(lambda: proxy.versions(ENDPOINTS) == {ORDERS: update.version})
        assert [len(response.resources) for response in proxy.responses] == [1, 1]


async def test_a_proxy_is_sent_nothing_until_the_control_plane_knows_its_world(served: Served):
    async with connected(served) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.subscribe(ENDPOINTS, ORDERS)
        served.plane.want("other", world())
        with pytest.raises(TimeoutError):
            await proxy.until(lambda: proxy.responses, timeout=0.2)
        served.plane.want("web", SHOP)
        await proxy.until(lambda: proxy.names(CLUSTER) == {ORDERS})


async def test_a_proxy_that_connects_again_is_sent_only_what_it_missed(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served, follows=True) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(ENDPOINTS))
        await proxy.disconnect()
        update = blob(ENDPOINTS, ORDERS, "moved")
        served.plane.want("web", world(cluster(ORDERS), update))
        proxy.responses.clear()
        await proxy.connect()
        await proxy.until(lambda: proxy.versions(ENDPOINTS) == {ORDERS: update.version})
        assert [response.type_url for response in proxy.responses] == [ENDPOINTS]


async def test_a_rejection_is_reported_in_the_proxys_words_and_the_last_good_version_stays(served: Served):
    served.plane.want("web", world(cluster("a"), cluster("b")))
    bad = cluster("b", "bad")

    def rejects(_kind: str, framed) -> str | None:
        return "no such filter" if framed.version == bad.version else None

    async with connected(served, rejects=rejects) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(CLUSTER) == {"a", "b"})
        served.plane.want("web", world(cluster("a", "new"), bad))
        (seat,) = served.plane.seats
        await proxy.until(lambda: proxy.versions(CLUSTER)["a"] == cluster("a", "new").version)
        assert proxy.versions(CLUSTER)["b"] == cluster("b").version
        served.plane.want("web", world(cluster("a", "newer"), bad))
        await proxy.until(lambda: proxy.versions(CLUSTER)["a"] == cluster("a", "newer").version)
        assert [(rejection.name, rejection.version) for rejection in seat.rejected] == [("b", bad.version)]
        assert "no such filter" in seat.rejected[0].why
        assert proxy.responses[-1].resources[0].name == "a"


async def test_a_consumer_that_does_not_read_jumps_to_the_latest_and_holds_up_nobody(served: Served):
    big = "x" * 200_000
    first = world(blob(ENDPOINTS, "a", big))
    served.plane.want("slow", first)
    served.plane.want("quick", first)
    async with connected(served, "slow") as slow, connected(served, "quick") as quick:
        for proxy in (slow, quick):
            await proxy.subscribe(ENDPOINTS, "a")
            await proxy.until(lambda proxy=proxy: proxy.names(ENDPOINTS))
        slow.stop_reading()
        for number in range(100):
            latest = blob(ENDPOINTS, "a", f"{big}{number}")
            served.plane.want("slow", world(latest))
            served.plane.want("quick", world(latest))
            await quick.until(lambda latest=latest: quick.versions(ENDPOINTS) == {"a": latest.version})
        slow.go_on_reading()
        await slow.until(lambda: slow.versions(ENDPOINTS) == {"a": latest.version})
        assert len(slow.responses) <= 4
        assert len(quick.responses) >= 100


async def test_a_proxy_that_never_answers_is_sent_one_response_per_type(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as proxy:
        proxy.answers = False
        await proxy.subscribe(ENDPOINTS, ORDERS)
        await proxy.until(lambda: proxy.responses)
        for number in range(50):
            served.plane.want("web", world(blob(ENDPOINTS, ORDERS, str(number))))
        (seat,) = served.plane.seats
        assert seat.conversation.status()[0].sync is Sync.SENT
        with pytest.raises(TimeoutError):
            await proxy.until(lambda: len(proxy.responses) > 1, timeout=0.2)


async def test_two_streams_of_one_node_are_served_each_on_its_own(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as one, connected(served) as other:
        await one.subscribe(CLUSTER)
        await other.subscribe(ROUTES, ORDERS)
        await one.until(lambda: one.names(CLUSTER) == {ORDERS})
        await other.until(lambda: other.names(ROUTES) == {ORDERS})
        assert not one.names(ROUTES)


async def test_only_the_first_request_needs_to_name_the_node(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.send(DeltaRequest(type_url=ROUTES, subscribe=(ORDERS,)))
        await proxy.until(lambda: proxy.names(ROUTES) == {ORDERS})
        assert [seat.node_id for seat in served.plane.seats] == ["web"]


@pytest.mark.parametrize(
    ("node_id", "request_", "code"),
    [
        ("web", DeltaRequest(type_url=""), grpc.StatusCode.INVALID_ARGUMENT),
        ("", DeltaRequest(type_url=CLUSTER), grpc.StatusCode.INVALID_ARGUMENT),
        ("stranger", DeltaRequest(type_url=CLUSTER), grpc.StatusCode.PERMISSION_DENIED),
        ("web", DeltaRequest(type_url=ROUTES, subscribe=("x" * 1025,)), grpc.StatusCode.INVALID_ARGUMENT),
        ("web", DeltaRequest(type_url=ROUTES, subscribe=("x" * 5000,)), grpc.StatusCode.INVALID_ARGUMENT),
        (
            "web",
            DeltaRequest(type_url=ROUTES, subscribe=tuple(map(str, range(10_001)))),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
    ],
)
async def test_a_request_that_breaks_a_rule_ends_the_stream_with_its_code(served, node_id, request_, code):
    served.plane.want("web", SHOP)
    async with connected(served, node_id) as proxy:
        await proxy.send(request_)
        await proxy.until(lambda: proxy.code is not None)
        assert proxy.code is code
        assert proxy.details


async def test_bytes_that_are_no_request_end_the_stream_and_nothing_else(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as broken, connected(served) as fine:
        await broken._write(b"\xff\xff\xff\xff")
        await broken.until(lambda: broken.code is grpc.StatusCode.INVALID_ARGUMENT)
        await fine.subscribe(CLUSTER)
        await fine.until(lambda: fine.names(CLUSTER))


async def test_a_storm_of_requests_ends_that_stream_and_leaves_the_others(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as hostile, connected(served) as fine:
        hostile.answers = False
        for _ in range(3000):
            await hostile.send(DeltaRequest(type_url=ROUTES, subscribe=("a",), unsubscribe=("a",)))
            if hostile.code:
                break
        await hostile.until(lambda: hostile.code)
        await served.plane.until(lambda: "requests per second" in served.plane.seats[0].ended)
        await fine.subscribe(CLUSTER)
        await fine.until(lambda: fine.names(CLUSTER))


async def test_the_end_of_a_stream_is_reported(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as proxy, connected(served, "watcher") as watcher:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(CLUSTER))
        (seat,) = served.plane.seats
        await proxy.disconnect()
        await served.plane.until(lambda: seat.ended)
        assert watcher.code is None


async def test_a_type_that_is_not_served_is_answered_as_absent_and_the_stream_lives(served: Served):
    served.plane.want("web", SHOP)
    async with connected(served) as proxy:
        await proxy.subscribe("type.googleapis.com/envoy.service.runtime.v3.Runtime", "rt")
        await proxy.until(lambda: proxy.responses)
        assert proxy.responses[0].removed == ("rt",)
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(CLUSTER))


async def test_the_unix_socket_can_be_opened_by_its_owner_only(served: Served):
    mode = Path(served.target.removeprefix("unix:")).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    served.plane.want("web", SHOP)
    async with connected(served) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(CLUSTER))
        assert served.plane.seats[0].peer.is_local


@asynccontextmanager
async def whole(served: Served, node_id: str = "grpc", **how) -> AsyncIterator[SotwProxy]:
    async with grpc.aio.insecure_channel(served.target) as channel, SotwProxy(channel, node_id, **how) as client:
        yield client


async def test_a_state_of_the_world_client_gets_whole_responses_and_is_live(served: Served):
    wanted = world(cluster(ORDERS), blob(ENDPOINTS, ORDERS), blob(LISTENER, ORDERS), blob(ROUTES, ORDERS))
    served.plane.want("grpc", wanted)
    async with whole(served) as client:
        await client.subscribe(LISTENER, ORDERS)
        await client.until(lambda: LISTENER in client.held)
        await client.subscribe(ROUTES, ORDERS)
        await client.subscribe(CLUSTER, ORDERS)
        await client.subscribe(ENDPOINTS, ORDERS)
        (seat,) = served.plane.seats
        await client.until(lambda: ENDPOINTS in client.held)
        await served.plane.until(lambda: len(seat.conversation.status()) == 4 and seat.conversation.is_live(wanted))
        assert [len(client.held[kind].resources) for kind in (LISTENER, ROUTES, CLUSTER, ENDPOINTS)] == [1] * 4
        count = len(client.responses)
        served.plane.want(
            "grpc", world(cluster(ORDERS), blob(LISTENER, ORDERS), blob(ROUTES, ORDERS), blob(ENDPOINTS, ORDERS, "two"))
        )
        await client.until(lambda: len(client.responses) > count)
        assert client.responses[-1].type_url == ENDPOINTS


async def test_a_state_of_the_world_refusal_is_reported_and_not_repeated(served: Served):
    served.plane.want("grpc", SHOP)
    async with whole(served, refusal=lambda _response: f"{ORDERS}: unsupported policy") as client:
        await client.subscribe(CLUSTER, ORDERS)
        await served.plane.until(lambda: served.plane.seats and served.plane.seats[0].rejected)
        served.plane.seats[0].wake()
        await client.send(SotwRequest(type_url=CLUSTER, nonce="stale", names=(ORDERS,)))
        with pytest.raises(TimeoutError):
            await client.until(lambda: len(client.responses) > 1, timeout=0.2)
        assert [rejection.name for rejection in served.plane.seats[0].rejected] == [ORDERS]
