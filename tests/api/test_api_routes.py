"""What each route asks of the control plane and how it answers, through the client that the command line uses."""

import json
import threading
from pathlib import Path

import pytest
from raw_http import request

from masche.api.access import TokenRequest
from masche.api.client import Client, DeniedError, RefusalError, UnreachableError
from masche.api.credentials import Credentials, CredentialsError, Sessions, load_token
from masche.api.explaining import WhyRequest
from masche.api.messages import Document, Event, MeshStatus, Verb
from masche.api.plane import Fault, PlaneError
from masche.api.server import AddressError
from masche.api.traffic import Edge, EdgeEndpoint, Edges, Graph, Rate, Way, ZoneLink, Zones, ZoneShare, ZoneShift
from masche.identity.files import UnsafeFileError
from masche.model.refs import Kind, Ref
from masche.testing.api import RunningApi, running_api
from masche.testing.plane import FakePlane

ORDERS = "kind: Service\nmetadata: {name: orders, namespace: shop, labels: {tier: back}}\nspec: {ports: [{port: 80}]}\n"
ORDERS_REF = Ref(Kind.SERVICE, "shop", "orders")


def document(text: str) -> Document:
    return Document(file="mesh.yaml", text=text)


def test_what_is_applied_can_be_read_listed_described_and_deleted(api: RunningApi):
    client = api.client
    applied = client.apply([document(ORDERS)])
    assert [(change.ref, change.verb) for change in applied.changed] == [(ORDERS_REF, Verb.CREATED)]
    assert client.get(ORDERS_REF).manifest["spec"] == {"ports": [{"port": 80}]}
    assert client.describe(ORDERS_REF).item.revision == applied.revision
    assert [item.ref for item in client.list(Kind.SERVICE, namespace=None).items] == [ORDERS_REF]
    assert client.list(Kind.SERVICE, namespace="other").items == ()
    assert client.list(Kind.SERVICE, namespace="shop", labels={"tier": "front"}).items == ()
    assert client.delete([ORDERS_REF]).changed[0].verb is Verb.DELETED
    with pytest.raises(RefusalError, match="there is no Service/shop/orders"):
        client.get(ORDERS_REF)


def test_an_edge_says_which_way_its_calls_travel(api: RunningApi, plane: FakePlane):
    rate = Rate(requests_per_second=1.0, success=1.0, p50_ms=1.0, p95_ms=1.0, p99_ms=1.0)
    near = EdgeEndpoint(workload="shop/orders-1", zone="", rate=rate, way=Way.LOCAL)
    edge = Edge(
        source="shop/web",
        destination="shop/orders",
        port=80,
        protocol="http",
        rate=rate,
        is_mtls=False,
        endpoints=(near,),
        way=Way.MIXED,
    )
    plane.traffic = Edges(at=1.0, window=10.0, edges=(edge,))
    assert api.client.edges(window=10.0).edges == (edge,)


def test_a_dry_run_stores_nothing(api: RunningApi):
    assert api.client.apply([document(ORDERS)], dry_run=True).is_dry_run
    assert api.client.list(Kind.SERVICE, namespace=None).items == ()


def test_findings_reach_the_caller_with_file_and_line(api: RunningApi):
    with pytest.raises(RefusalError) as caught:
        api.client.apply([document("kind: Nonsense\nmetadata: {name: x}")])
    assert (caught.value.status, caught.value.error.code) == (422, "invalid")
    assert caught.value.error.diagnostics[0].place is not None
    assert caught.value.error.diagnostics[0].place.file == "mesh.yaml"


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.INVALID, 422), (Fault.NOT_FOUND, 404), (Fault.CONFLICT, 409), (Fault.UNAVAILABLE, 503)],
)
def test_each_fault_has_its_status(api: RunningApi, plane: FakePlane, fault: Fault, status: int):
    plane.failure = PlaneError(fault, "why", fix="cure")
    answer = request(api, "GET", "/v1/status")
    assert (answer.status, answer.json) == (
        status,
        {"error": {"code": str(fault), "message": "why", "fix": "cure", "diagnostics": []}},
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/resources/Nonsense",
        "/v1/resources/Service?label=x",
        "/v1/rollouts/-1",
        "/v1/rollouts/1e3",
        "/v1/rollouts/99999999999999999999999",
        "/v1/rollouts/%D9%A1",
        "/v1/edges?window=nan",
        "/v1/edges?window=inf",
        "/v1/edges?window=0",
        "/v1/zones?window=3601",
        "/v1/graph?window=x",
        "/v1/events?after=x",
        "/v1/events?limit=1000000",
        "/v1/live?after=x",
    ],
)
def test_a_question_that_makes_no_sense_is_a_bad_request(api: RunningApi, path: str):
    answer = request(api, "GET", path)
    assert (answer.status, answer.code) == (400, "bad-request")


def test_unknown_routes_and_methods_are_answered_in_json(api: RunningApi):
    assert request(api, "GET", "/v1/nothing").status == 404
    assert request(api, "PUT", "/v1/status").code == "method-not-allowed"


def test_names_that_would_hurt_a_shell_a_page_or_a_path_come_back_literally(api: RunningApi):
    for name in ["<script>alert(1)</script>", "\x1b[31mred", "'; drop table--", "a&b=c#d?e", "ümläut", "..", "%2e%2e"]:
        with pytest.raises(RefusalError) as caught:
            api.client.get(Ref(Kind.SERVICE, "shop", name))
        if "/" not in name and name != "..":
            assert name in caught.value.error.message
        assert caught.value.status == 404
    answer = request(api, "GET", "/v1/resources/Service/shop/%3Cscript%3E")
    assert answer.headers["content-type"] == "application/json"


def test_keys_are_camel_case(api: RunningApi):
    answer = request(api, "GET", "/v1/status")
    assert {"trustDomain", "startedAt", "waitingFor"} <= answer.json["plane"].keys()


def test_tokens_and_machines_are_made_listed_and_revoked(api: RunningApi):
    created = api.client.create_token(TokenRequest(namespaces=("shop",), ttl=60.0))
    assert created.join_string.startswith("masche://")
    assert created.join_string not in repr(created)
    assert [token.id for token in api.client.tokens().tokens] == [created.token.id]
    api.client.revoke_token(created.token.id)
    assert api.client.tokens().tokens == ()
    with pytest.raises(RefusalError, match="no token"):
        api.client.revoke_token("t99")
    with pytest.raises(RefusalError, match="no machine"):
        api.client.revoke_machine("m1")


def test_why_carries_the_question_over(api: RunningApi):
    explanation = api.client.why(WhyRequest(source="shop/web", destination="orders", headers={"x": "1"}))
    assert explanation.summary == "shop/web may call orders"


def test_links_between_zones_come_as_they_are(api: RunningApi, plane: FakePlane):
    rate = Rate(requests_per_second=3.0, success=1.0, p50_ms=1.0, p95_ms=2.0, p99_ms=3.0)
    link = ZoneLink(source="a", destination="b", via="c", rate=rate, share=0.25, network_ms=12.5, is_bad=True)
    shift = ZoneShift(service="shop/orders:80", caller_zone="a", shares=(ZoneShare(zone="b", via="c", share=1.0),))
    plane.between = Zones(at=1.0, window=10.0, links=(link,), shifts=(shift,))
    assert api.client.zones(window=30.0) == Zones(at=1.0, window=30.0, links=(link,), shifts=(shift,))


def test_the_live_stream_begins_with_the_whole_picture_and_goes_on_with_what_happens(api: RunningApi, plane: FakePlane):
    stream = api.client.live()
    assert [type(next(stream)) for _ in range(4)] == [MeshStatus, Graph, Edges, Zones]
    api.call(lambda: plane.happen("workload-joined", "shop/orders-1 joined\nid: 99", about="shop/orders-1"))
    event = next(stream)
    assert isinstance(event, Event)
    assert (event.sequence, event.message) == (1, "shop/orders-1 joined\nid: 99")
    stream.close()


def test_a_browser_that_comes_back_gets_the_events_it_missed(api: RunningApi, plane: FakePlane):
    for number in range(3):
        plane.happen("tick", f"number {number}")
    stream = api.client.live(after=2)
    messages = [next(stream) for _ in range(5)]
    assert isinstance(messages[4], Event)
    assert messages[4].sequence == 3
    stream.close()


def test_stopping_the_server_ends_live_streams_at_once(plane: FakePlane, tmp_path: Path):
    ended = threading.Event()
    with running_api(plane, tmp_path / "data") as api:
        stream = api.client.live()
        next(stream)

        def drain() -> None:
            for _ in stream:
                pass
            ended.set()

        reader = threading.Thread(target=drain)
        reader.start()
    assert ended.wait(timeout=5)
    reader.join()


def test_a_stopped_control_plane_is_named_unreachable(plane: FakePlane, tmp_path: Path):
    with running_api(plane, tmp_path / "data") as api:
        client = api.client
    with pytest.raises(UnreachableError, match="no control plane answers at"):
        client.status()
    with pytest.raises(UnreachableError, match="has run on"):
        Client.of(tmp_path / "elsewhere")


def test_a_wrong_token_is_named_denied(api: RunningApi):
    client = Client(host=api.listening.host, port=api.listening.port, token="wrong")
    with pytest.raises(DeniedError, match="valid credentials"):
        client.status()


def test_all_secrets_are_in_files_that_only_we_can_read(api: RunningApi):
    api.client.login_link()
    folder = api.data / "api"
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    sessions = folder / "sessions"
    assert not sessions.exists() or "masche" not in sessions.read_text()


def test_a_token_file_that_others_can_read_is_refused(api: RunningApi, plane: FakePlane):
    (api.data / "api" / "token").chmod(0o644)
    with pytest.raises(UnsafeFileError, match="chmod go="), running_api(plane, api.data):
        pass


def test_sessions_survive_a_restart(plane: FakePlane, tmp_path: Path):
    with running_api(plane, tmp_path) as api:
        code = api.client.login_link().partition("#")[2]
        origin, body = {"Origin": api.listening.url}, json.dumps({"code": code}).encode()
        answer = request(api, "POST", "/v1/session", is_authenticated=False, headers=origin, body=body)
        cookie = answer.headers["set-cookie"].partition(";")[0]
    with running_api(plane, tmp_path) as api:
        again = request(api, "GET", "/v1/session", is_authenticated=False, headers={"Cookie": cookie})
    assert again.json["kind"] == "browser"


def test_the_token_is_made_once_and_is_256_bit(plane: FakePlane, tmp_path: Path):
    with running_api(plane, tmp_path) as api:
        first = api.listening.credentials.token
    with running_api(plane, tmp_path) as api:
        assert api.listening.credentials.token == first
    assert len(first) >= 43


def test_a_taken_port_is_named_with_its_cure(api: RunningApi):
    from masche.api.server import _bind  # pyright: ignore[reportPrivateUsage]  # the part that can fail

    with pytest.raises(AddressError, match=r"port \d+ on 127.0.0.1 is taken.*--api-port"):
        _bind("127.0.0.1", api.listening.port, "--api-port")
    with pytest.raises(AddressError, match=r"cannot listen on 192\.0\.2\.1"):
        _bind("192.0.2.1", 0, "--api-port")


def test_a_token_file_without_a_token_is_refused(tmp_path: Path):
    from masche.api.credentials import ApiFolder
    from masche.identity.files import write_private

    folder = ApiFolder(tmp_path)
    folder.folder.mkdir()
    write_private(folder.token, b"")
    with pytest.raises(CredentialsError, match="does not hold a token"):
        load_token(folder)


def test_every_route_is_documented():
    from masche.api.routes import Routes

    table = Routes(plane=FakePlane(), credentials=Credentials(token="x", sessions=Sessions(Path("x")))).table()
    routes = {f"{method} {route.path}" for route in table for method in (route.methods or ()) if method != "HEAD"}
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    documented = {
        line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and " /" in line[:20]
    }
    assert documented - {"method and path"} == routes
