"""Where a proxy listens, whence it calls, and where others are told to reach it."""

from typing import Any

import pytest

from masche.agent.listen import ListenError
from masche.agent.local import Claim, ClaimPort
from masche.agent.occupancy import ClaimError, check, workload_names
from masche.agent.whereabouts import Whereabouts, whereabouts
from masche.model.vantage import Placement

HOST = "10.0.0.1"


def claim(**more) -> Claim:
    return Claim(service="orders", namespace="shop", service_account="orders", **more)


def carrier(**more) -> Claim:
    given = {"placement": Placement.GATEWAY, "is_east_west": True, "zone": "c", **more}
    return Claim(service="east-west", namespace="masche-system", service_account="east-west", **given)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (claim(), Whereabouts(bind=HOST, advertised=HOST)),
        (claim(address="10.9.9.9"), Whereabouts(bind="10.9.9.9", advertised="10.9.9.9")),
        (claim(bind="10.0.0.2"), Whereabouts(bind="10.0.0.2", advertised="10.0.0.2", source="10.0.0.2")),
        (
            claim(bind="10.0.0.2", address="1.2.3.4"),
            Whereabouts(bind="10.0.0.2", advertised="1.2.3.4", source="10.0.0.2"),
        ),
        (claim(bind="0.0.0.0"), Whereabouts(bind="0.0.0.0", advertised=HOST)),
        (carrier(), Whereabouts(bind=HOST, advertised=HOST)),
        (
            carrier(listen="10.0.0.3:15008"),
            Whereabouts(bind="10.0.0.3", advertised="10.0.0.3", source="10.0.0.3", port=15008),
        ),
        (
            carrier(listen="10.0.0.3", address="1.2.3.4"),
            Whereabouts(bind="10.0.0.3", advertised="1.2.3.4", source="10.0.0.3"),
        ),
        (carrier(listen="0.0.0.0:9"), Whereabouts(bind="0.0.0.0", advertised=HOST, port=9)),
        (
            claim(placement=Placement.GATEWAY, gateway="edge", listen="0.0.0.0:80"),
            Whereabouts(bind="0.0.0.0", advertised=HOST),
        ),
    ],
)
def test_a_proxy_stands_at_one_address_unless_told_otherwise(asked: Claim, found: Whereabouts) -> None:
    assert whereabouts(asked, HOST) == found


def test_an_address_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(ListenError):
        whereabouts(carrier(listen="here"), HOST)
    with pytest.raises(ClaimError, match="--bind 'here' is no IP address"):
        check(claim(bind="here"), "")
    with pytest.raises(ClaimError, match="--address 'there' is no IP address"):
        check(claim(address="there"), "")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dependencies": ("Bad!",)}, "'Bad!' is no name for a service"),
        ({"ports": (ClaimPort(port=80), ClaimPort(port=80))}, "the port 80 is given to two ports"),
        ({"ports": (ClaimPort(port=80, name="a"), ClaimPort(port=81, name="a"))}, "the name a is given to two ports"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ClaimError, match=words):
        check(claim(**asked), "")


def test_a_gateway_between_zones_is_in_a_zone_its_own_or_the_machines() -> None:
    check(carrier(), "")
    check(carrier(zone=""), "c")
    with pytest.raises(ClaimError, match="is in a zone"):
        check(carrier(zone=""), "")


def test_gateways_of_two_zones_on_one_machine_are_two_workloads() -> None:
    names = {next(iter(workload_names("m", carrier(zone=zone)))) for zone in ("b", "c")}
    assert len(names) == 2
