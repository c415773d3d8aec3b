"""What may be said, where it is read, and that what is wrong is said with its place and its cure."""

from pathlib import Path

import pytest

from masche.library.core.ports import MeshError
from masche.library.life.options import Options, OptionsError, port
from masche.model.port import Port


def test_a_script_needs_only_a_service_account() -> None:
    found = Options.read({}, {"MASCHE_SERVICE_ACCOUNT": "nightly"})
    assert (found.account, found.app, found.namespace, found.service) == ("nightly", "nightly", "default", "")


def test_a_service_calls_as_itself_unless_told_otherwise() -> None:
    assert Options.read({}, {"MASCHE_SERVICE": "orders"}).account == "orders"
    both = Options.read({}, {"MASCHE_SERVICE": "orders", "MASCHE_SERVICE_ACCOUNT": "clerk"})
    assert (both.account, both.app) == ("clerk", "orders")


def test_every_option_is_read_from_the_environment() -> None:
    found = Options.read(
        {},
        {
            "MASCHE_SERVICE": "orders",
            "MASCHE_NAMESPACE": "shop",
            "MASCHE_ZONE": "north",
            "MASCHE_ADDRESS": "10.0.0.7",
            "MASCHE_LABELS": "tier=gold, team=web",
            "MASCHE_DEPENDS_ON": "stock,payment.bank",
            "MASCHE_DATA": "/srv/masche",
            "MASCHE_TOKEN_FILE": "/run/token",
            "MASCHE_CONTROL_PLANE": "10.0.0.1",
            "MASCHE_READY_TIMEOUT": "500ms",
            "MASCHE_LAST_GOOD": "1",
        },
    )
    assert found == Options(
        service="orders",
        namespace="shop",
        zone="north",
        address="10.0.0.7",
        labels={"tier": "gold", "team": "web"},
        dependencies=("stock", "payment.bank"),
        data=Path("/srv/masche"),
        token_file=Path("/run/token"),
        control_plane="10.0.0.1:15012",
        ready_timeout=0.5,
        keeps_last_good=True,
    )


def test_what_is_given_wins_over_the_environment() -> None:
    found = Options.read({"service": "orders", "ready_timeout": 3}, {"MASCHE_SERVICE": "stock"})
    assert (found.service, found.ready_timeout) == ("orders", 3)


def test_an_argument_may_be_written_like_its_variable() -> None:
    found = Options.read({"service": "orders", "data": "~/mesh", "ready_timeout": "1m"}, {})
    assert (found.data, found.ready_timeout) == (Path.home() / "mesh", 60.0)


@pytest.mark.parametrize(
    ("environ", "place", "cure"),
    [
        ({}, "MASCHE_SERVICE_ACCOUNT", "set it to whom it calls as"),
        ({"MASCHE_SERVICE": "Orders!"}, "MASCHE_SERVICE:", "use lower case letters"),
        ({"MASCHE_SERVICE": "o", "MASCHE_NAMESPACE": "a.b"}, "MASCHE_NAMESPACE:", "use lower case letters"),
        ({"MASCHE_SERVICE": "o", "MASCHE_LABELS": "gold"}, "MASCHE_LABELS:", "write tier=gold"),
        ({"MASCHE_SERVICE": "o", "MASCHE_ADDRESS": "here"}, "MASCHE_ADDRESS:", "write one at which"),
        ({"MASCHE_SERVICE": "o", "MASCHE_READY_TIMEOUT": "soon"}, "MASCHE_READY_TIMEOUT:", "write 500ms"),
        ({"MASCHE_SERVICE": "o", "MASCHE_LAST_GOOD": "maybe"}, "MASCHE_LAST_GOOD:", "write 1 or 0"),
        ({"MASCHE_SERVICE": "o", "MASCHE_CONTROL_PLANE": "http://x"}, "MASCHE_CONTROL_PLANE:", "write host:15012"),
        ({"MASCHE_SERVICE": "o", "MASCHE_CONTROL_PLANE": "x:99999"}, "MASCHE_CONTROL_PLANE:", "write host:15012"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_its_cure(environ: dict[str, str], place: str, cure: str) -> None:
    with pytest.raises(OptionsError) as raised:
        Options.read({}, environ)
    assert str(raised.value).startswith(place)
    assert cure in str(raised.value)


def test_of_an_argument_the_place_is_its_own_name() -> None:
    with pytest.raises(OptionsError, match=r"^namespace: 'A' is no name"):
        Options.read({"service": "orders", "namespace": "A"}, {"MASCHE_NAMESPACE": "shop"})


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionsError, match="there is no option 'servce'"):
        Options.read({"servce": "orders"}, {})


def test_what_is_wrong_with_options_is_an_error_of_the_mesh() -> None:
    assert issubclass(OptionsError, MeshError)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (8443, Port(port=8443)),
        ("8443/grpc", Port(port=8443, protocol="grpc")),
        ("web:8443/http2", Port(port=8443, name="web", protocol="http2")),
    ],
)
def test_a_port_is_written_as_for_masche_run(text: int | str, found: Port) -> None:
    assert port(text) == found


@pytest.mark.parametrize("text", ["0", "70000", "web", "8443/gopher"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionsError, match=r"^port: "):
        port(text)
