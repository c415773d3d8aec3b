from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.agent.capture.names import Names
from masche.agent.capture.ranges import GATEWAY, RangeError, free, parse
from masche.model.refs import Name

TAG = "1a2b3c"


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), max_size=60, unique=True))
def test_no_two_workloads_share_a_number_or_get_one_that_is_special(names: list[str]):
    network = parse("10.200.0.0/24", TAG)
    taken: set[int] = set()
    for name in names:
        number = network.number_for(Name("shop", name), taken)
        assert number not in taken
        assert GATEWAY < number < 255
        taken.add(number)


def test_a_workload_gets_the_same_number_when_nothing_is_remembered():
    network = parse("10.200.0.0/16", TAG)
    assert network.number_for(Name("shop", "orders"), ()) == network.number_for(Name("shop", "orders"), ())


def test_a_full_range_says_what_to_do():
    network = parse("10.200.0.0/28", TAG)
    taken: set[int] = set()
    for at in range(13):
        taken.add(network.number_for(Name("shop", f"orders-{at}"), taken))
    assert taken == set(range(2, 15))
    with pytest.raises(RangeError, match="--address-range"):
        network.number_for(Name("shop", "one-more"), taken)


@pytest.mark.parametrize("text", ["10.0.0.1/16", "10.0.0.0/30", "0.0.0.0/0", "fd00::/64", "all"])
def test_what_is_no_range_is_refused(text: str):
    with pytest.raises(RangeError):
        parse(text, TAG)


def test_a_range_that_goes_somewhere_already_is_not_taken():
    first = free(TAG, ())
    second = free(TAG, (IPv4Network("0.0.0.0/0"), IPv4Network(f"{first.address(77)}/32")))
    assert not first.v4.overlaps(second.v4)


def test_where_one_private_network_is_routed_as_a_whole_the_next_one_serves():
    ten, second, third = (IPv4Network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10"))
    assert free(TAG, (ten,)).v4.subnet_of(second)
    assert free(TAG, (ten, second)).v4.subnet_of(third)
    with pytest.raises(RangeError, match="--address-range"):
        free(TAG, (ten, second, third))


def test_ranges_of_ipv6_are_local_and_differ_from_host_to_host():
    one, other = parse("10.200.0.0/16", "000001"), parse("10.200.0.0/16", "000002")
    assert one.v6.is_private
    assert one.v6.prefixlen == 64
    assert one.v6 != other.v6


@given(st.integers(min_value=1, max_value=(1 << 24) - 1))
def test_names_of_interfaces_are_at_most_fifteen_characters(number: int):
    names = Names(TAG)
    assert len(names.link(number)) <= 15
    assert len(names.bridge) <= 15


def test_the_name_of_a_namespace_is_the_name_of_a_file():
    names = Names(TAG)
    long = Name("n" * 63, "w" * 253)
    assert names.namespace(Name("shop", "orders-1")) == "masche-1a2b3c.shop.orders-1"
    assert len(names.namespace(long)) <= 255
    assert names.namespace(long).startswith(names.namespaces)
    assert names.namespace(long) != names.namespace(Name("n" * 63, "w" * 252))
