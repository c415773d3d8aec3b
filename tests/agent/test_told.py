"""What an Envoy is told, by whom, and what is remembered of it."""

from pathlib import Path

import pytest

from masche.agent import environment
from masche.agent.last_good import LastGood
from masche.agent.listen import Listen, ListenError, parse_listen
from masche.agent.local import Claim, ClaimPort
from masche.agent.occupancy import ClaimError, Record, seat_of, workload_names, write_record
from masche.agent.offline import Offline
from masche.agent.returning import wanted
from masche.agent.sds import Sds, Shelf
from masche.link.messages import ScopeService
from masche.link.workloads import port_names, protocol_of
from masche.model.refs import Name, PortRef
from masche.model.vantage import Placement
from masche.model.view import Protocol
from masche.wire import framing
from masche.wire.discovery import DeltaRequest, decode_delta_response, encode_delta_response
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET


def _acknowledged(folder: Path, kind: str, *names: str, content: bytes = b"x") -> LastGood:
    kept = LastGood(folder)
    frames = [framing.blob(kind, name, content).frame for name in names]
    kept.keep(decode_delta_response(encode_delta_response(kind, "1", frames)))
    return kept


def _names(raw: bytes | None) -> list[str]:
    return [one.name for one in decode_delta_response(raw).resources] if raw else []


def test_a_fresh_envoy_is_given_everything_that_was_acknowledged(tmp_path: Path) -> None:
    kept = _acknowledged(tmp_path / "k", CLUSTER, "b", "a")
    assert _names(Offline(kept).answer(DeltaRequest(type_url=CLUSTER))) == ["a", "b"]
    assert _names(Offline(kept).answer(DeltaRequest(type_url=CLUSTER, subscribe=("*",)))) == ["a", "b"]
    assert _names(Offline(kept).answer(DeltaRequest(type_url=LISTENER))) == []


def test_an_envoy_that_holds_something_is_left_exactly_as_it_is(tmp_path: Path) -> None:
    kept = _acknowledged(tmp_path / "k", CLUSTER, "a", "b")
    request = DeltaRequest(type_url=CLUSTER, initial_versions={"a": "newer than ours"})
    assert Offline(kept).answer(request) is None


def test_named_resources_are_given_once_and_acknowledgements_get_no_answer(tmp_path: Path) -> None:
    offline = Offline(_acknowledged(tmp_path / "k", ENDPOINTS, "a", "b"))
    assert _names(offline.answer(DeltaRequest(type_url=ENDPOINTS, subscribe=("a", "unknown")))) == ["a"]
    assert offline.answer(DeltaRequest(type_url=ENDPOINTS, nonce="last-good-1")) is None
    assert _names(offline.answer(DeltaRequest(type_url=ENDPOINTS, subscribe=("a", "b")))) == ["b"]
    offline.answer(DeltaRequest(type_url=ENDPOINTS, unsubscribe=("a",)))
    assert _names(offline.answer(DeltaRequest(type_url=ENDPOINTS, subscribe=("a",)))) == ["a"]


def test_what_was_removed_is_forgotten_and_what_changed_is_replaced(tmp_path: Path) -> None:
    kept = _acknowledged(tmp_path / "k", CLUSTER, "a", "b")
    fresh = framing.blob(CLUSTER, "a", b"new")
    kept.keep(decode_delta_response(encode_delta_response(CLUSTER, "2", [fresh.frame], ["b"])))
    assert [(one.name, one.version) for one in kept.every(CLUSTER)] == [("a", fresh.version)]


def test_what_was_removed_of_a_shared_envoy_is_remembered_until_nobody_wants_it(tmp_path: Path) -> None:
    kept = LastGood(tmp_path / "k", keeps_removed=True)
    frames = [framing.blob(CLUSTER, name, b"x").frame for name in ("a", "b", "c")]
    kept.keep(decode_delta_response(encode_delta_response(CLUSTER, "1", frames)))
    kept.keep(decode_delta_response(encode_delta_response(CLUSTER, "2", [], ["a"])))
    kept.let_go(CLUSTER, ["b"])
    assert [one.name for one in kept.every(CLUSTER)] == ["a", "b", "c"]
    assert [one.name for one in kept.named(CLUSTER, ["b"])] == ["b"]
    kept.prune(lambda kind, name: (kind, name) == (CLUSTER, "b"))
    assert [one.name for one in kept.every(CLUSTER)] == ["b", "c"]
    kept.keep(decode_delta_response(encode_delta_response(CLUSTER, "3", frames[:2])))
    kept.prune(lambda _kind, _name: False)
    assert [one.name for one in kept.every(CLUSTER)] == ["a", "b", "c"], "what is there again is not removed"
    assert len(list((tmp_path / "k").rglob("*"))) == 1 + 3


def _left(seats: Path, workload: str, *services: str) -> None:
    """The seat of a workload of the node that has left."""
    namespace, name = workload.split("/")
    folder = seats / f"{namespace}~{name}"
    folder.mkdir(parents=True)
    claim = Claim(service="web", namespace=namespace, service_account="web", placement=Placement.NODE)
    seat = seat_of(Name(namespace, name), claim, bind="127.0.0.1", mesh_ports={})
    write_record(folder, Record(claim=claim, seat=seat, services=tuple(map(_service, services))))


def test_those_who_may_come_back_want_what_is_theirs_and_what_they_called(tmp_path: Path) -> None:
    _left(tmp_path, "shop/web-1", "orders")
    wants = wanted(tmp_path.iterdir())
    own = ("capture/shop/web-1", "capture-inbound/shop/web-1", "inbound/shop/web-1/80", "local/shop/web-1/15006")
    assert all(wants(LISTENER, name) for name in own)
    assert not any(wants(LISTENER, name.replace("web-1", "gone-1")) for name in own)
    assert wants(CLUSTER, "inbound/shop/web-1/80/h2")
    assert wants(CLUSTER, "outbound/shop/orders/80")
    assert wants(ENDPOINTS, "outbound/shop/orders/80")
    assert not wants(CLUSTER, "outbound/shop/orders/8080")
    assert not wants(ENDPOINTS, "outbound/shop/stock/80")
    assert wants(ROUTES, "capture/shop/all")
    assert not wants(ROUTES, "capture/bank/all")
    assert wants(CLUSTER, "passthrough/captured"), "what is nobody's is everybody's"


def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    kept = _acknowledged(tmp_path / "k", CLUSTER, "a", "b")
    files = sorted((tmp_path / "k").rglob("*"))[1:]
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert len(kept.every(CLUSTER)) == 1
    files[1].write_bytes(b"")
    assert kept.every(CLUSTER) == ()


def test_a_missing_secret_is_withheld_and_sent_when_it_is_there() -> None:
    shelf = Shelf()
    sds = Sds(shelf)
    sds.read(DeltaRequest(type_url=SECRET, subscribe=("default", "ROOTCA")))
    assert sds.answer() is None
    shelf.put(framing.blob(SECRET, "default", b"1"))
    assert _names(sds.answer()) == ["default"]
    assert sds.answer() is None
    shelf.put(framing.blob(SECRET, "default", b"2"), framing.blob(SECRET, "unwanted", b"3"))
    assert _names(sds.answer()) == ["default"]
    shelf.withdraw("default")
    assert sds.answer() is None


def test_a_secret_that_envoy_holds_is_not_sent_again_after_a_reconnect() -> None:
    shelf = Shelf()
    blob = framing.blob(SECRET, "default", b"1")
    shelf.put(blob)
    sds = Sds(shelf)
    sds.read(DeltaRequest(type_url=SECRET, subscribe=("default",), initial_versions={"default": blob.version}))
    assert sds.answer() is None


def _told(raw: bytes | None) -> tuple[list[str], list[str]]:
    found = decode_delta_response(raw) if raw else None
    return ([one.name for one in found.resources], [*found.removed]) if found else ([], [])


def test_the_secret_of_who_left_is_removed_where_it_is_held_and_given_again_to_who_comes_back() -> None:
    shelf = Shelf()
    one, other = Sds(shelf), Sds(shelf)
    one.read(DeltaRequest(type_url=SECRET, subscribe=("workload/shop/web-1",)))
    other.read(DeltaRequest(type_url=SECRET, subscribe=("workload/shop/other-1",)))
    shelf.put(framing.blob(SECRET, "workload/shop/web-1", b"1"), framing.blob(SECRET, "workload/shop/other-1", b"1"))
    assert (_told(one.answer()), _told(other.answer())) == (
        (["workload/shop/web-1"], []),
        (["workload/shop/other-1"], []),
    )
    shelf.remove("workload/shop/web-1")
    assert _told(one.answer()) == ([], ["workload/shop/web-1"])
    assert one.answer() is None, "it is said once"
    assert other.answer() is None
    assert shelf.known == {"workload/shop/other-1"}
    shelf.put(framing.blob(SECRET, "workload/shop/web-1", b"1"))
    assert _told(one.answer()) == (["workload/shop/web-1"], [])


def test_a_secret_that_envoy_had_of_an_earlier_agent_is_removed_too() -> None:
    shelf = Shelf()
    sds = Sds(shelf)
    name = "workload/shop/web-1"
    sds.read(DeltaRequest(type_url=SECRET, subscribe=(name,), initial_versions={name: "1"}))
    assert shelf.known == {name}
    assert sds.answer() is None, "nobody said that it has left"
    shelf.remove(name)
    assert _told(sds.answer()) == ([], [name])


def test_a_shelf_shows_names_and_no_secrets() -> None:
    shelf = Shelf()
    shelf.put(framing.blob(SECRET, "default", b"very secret"))
    assert repr(shelf) == "<Shelf of default>"
    assert "very" not in repr(shelf.blobs)


def _service(name: str, namespace: str = "shop", port: int = 80, protocol: Protocol = Protocol.HTTP) -> ScopeService:
    return ScopeService(port=PortRef(namespace, name, port), protocol=protocol)


def test_variables_name_services_of_ones_own_namespace_bare_and_others_with_theirs() -> None:
    services = (_service("orders"), _service("orders", "bank"), _service("data-base", port=5432, protocol=Protocol.TCP))
    ports = {one.port: 20_000 + index for index, one in enumerate(services)}
    assert environment.variables("shop", services, environment.beside(ports)) == {
        "ORDERS_URL": "http://127.0.0.1:20000",
        "ORDERS_ADDR": "127.0.0.1:20000",
        "ORDERS_BANK_URL": "http://127.0.0.1:20001",
        "ORDERS_BANK_ADDR": "127.0.0.1:20001",
        "DATA_BASE_URL": "tcp://127.0.0.1:20002",
        "DATA_BASE_ADDR": "127.0.0.1:20002",
    }


def test_the_first_http_port_has_the_bare_name_and_others_their_number() -> None:
    services = (_service("a", port=90), _service("a", port=80), _service("a", port=7, protocol=Protocol.TCP))
    found = environment.variables("shop", services, environment.beside({one.port: one.port.port for one in services}))
    assert {name: value for name, value in found.items() if name.endswith("ADDR")} == {
        "A_ADDR": "127.0.0.1:80",
        "A_90_ADDR": "127.0.0.1:90",
        "A_7_ADDR": "127.0.0.1:7",
    }


def test_the_users_no_proxy_and_port_stay() -> None:
    found = environment.complete({"no_proxy": "a, b", "PORT": "1"}, environment.proxied(9), 8080)
    assert found["NO_PROXY"] == found["no_proxy"] == "a,b,localhost,127.0.0.1,::1"
    assert (found["PORT"], found["HOST"]) == ("1", "127.0.0.1")
    assert "HOST" not in environment.complete({}, environment.proxied(9), 0)


def _claim(**changes: object) -> Claim:
    given = {"service": "orders", "namespace": "shop", "service_account": "orders", "ports": (ClaimPort(port=80),)}
    return Claim(**{**given, **changes})  # pyright: ignore[reportArgumentType] - fields of Claim by name


def test_the_same_claim_has_the_same_names_and_another_claim_others() -> None:
    def first(claim: Claim, machine: str = "m") -> str:
        return next(iter(workload_names(machine, claim))).name

    assert first(_claim()) == first(_claim())
    others = [_claim(ports=(ClaimPort(port=81),)), _claim(service_account="x"), _claim(labels={"v": "2"})]
    assert len({first(_claim()), first(_claim(), "n"), *map(first, others)}) == 5
    names = iter(workload_names("m", _claim()))
    assert next(names) != next(names)


def test_a_protocol_is_declared_or_begins_the_name_of_its_port() -> None:
    assert protocol_of(ClaimPort(port=1, protocol="tcp", name="grpc")) is Protocol.TCP
    assert protocol_of(ClaimPort(port=1, name="grpc-api")) is Protocol.GRPC
    assert protocol_of(ClaimPort(port=1, name="admin")) is Protocol.HTTP
    with pytest.raises(ClaimError):
        protocol_of(ClaimPort(port=1, protocol="udp"))
    assert port_names((ClaimPort(port=1), ClaimPort(port=2, protocol="tcp"))) == ("http", "tcp-2")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.1", Listen("10.0.0.1", 0)),
        ("0.0.0.0:8080", Listen("0.0.0.0", 8080)),
        ("::", Listen("::", 0)),
        ("[::1]:80", Listen("::1", 80)),
    ],
)
def test_a_gateway_listens_on_an_address_and_perhaps_a_port(text: str, found: Listen) -> None:
    assert parse_listen(text) == found


@pytest.mark.parametrize("text", ["", "host", "host:80", "1.2.3.4:x", "1.2.3.4:99999", "1.2.3.4:-1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ListenError):
        parse_listen(text)


def test_a_gateway_with_a_port_puts_its_only_listener_there() -> None:
    claim = _claim(ports=(), placement=Placement.GATEWAY, gateway="edge", listen="127.0.0.1:8443")
    name = next(iter(workload_names("m", claim)))
    seat = seat_of(name, claim, bind="127.0.0.1", mesh_ports={}, proxy_port=0, local={})
    assert seat.gateway_ports == ((0, 8443),)
