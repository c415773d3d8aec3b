"""Every Service has an address of its own, which says that it is meant."""

import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.compiler import addresses
from masche.compiler.addresses import IPV4, IPV6, virtual_addresses
from masche.model.refs import Name
from masche.model.resources.core import Service

NAMES = st.sets(st.builds(Name, st.sampled_from(["shop", "lab"]), st.from_regex("[a-z]{1,6}", fullmatch=True)))


def services(names: set[Name]) -> Mapping[Name, Service]:
    made = (
        Service.model_validate(
            {
                "metadata": {"name": name.name, "namespace": name.namespace},
                "spec": {"ports": [{"port": 80}]},
            }
        )
        for name in names
    )
    return {each.name: each for each in made}


@given(NAMES)
def test_no_two_services_share_an_address(names: set[Name]) -> None:
    found = virtual_addresses(services(names))
    assert found.keys() == names
    for family in (0, 1):
        assert len({each[family] for each in found.values()}) == len(names)


@given(NAMES)
def test_addresses_do_not_depend_on_the_order_in_which_services_came(names: set[Name]) -> None:
    one, other = services(names), dict(reversed(services(names).items()))
    assert virtual_addresses(one) == virtual_addresses(other)


def test_a_new_service_leaves_the_others_where_they_are() -> None:
    some = {Name("shop", f"service-{number}") for number in range(300)}
    before, after = virtual_addresses(services(some)), virtual_addresses(services(some | {Name("shop", "new")}))
    assert all(after[name] == address for name, address in before.items())


def test_services_that_wish_for_one_address_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_wished", lambda _name: IPV4.num_addresses - 3)
    found = virtual_addresses(services({Name("shop", "a"), Name("shop", "b"), Name("shop", "c")}))
    assert [each[0] for each in found.values()] == ["240.127.255.254", "240.64.0.1", "240.64.0.2"]


def test_addresses_are_within_the_ranges_that_are_captured() -> None:
    ((four, six),) = virtual_addresses(services({Name("shop", "orders")})).values()
    assert ipaddress.ip_address(four) in IPV4
    assert ipaddress.ip_address(six) in IPV6
