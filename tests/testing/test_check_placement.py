"""The kit that compares placements finds what it is there to find."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import pytest

from masche.testing.check_placement import Arrived, Asked, Seen, check_placement, differences

ASKED = Asked(caller="shop/web-1", authority="orders")
OFTEN = replace(ASKED, rounds=4)
AT_ONE = Arrived(
    instance="shop/orders-1:8080", method="GET", target="/", authority="orders", headers=(("x-a", "1"),), peer="web"
)
FINE_HEADERS = (("x-b", "1"),)
FINE = Seen(status=200, headers=FINE_HEADERS, by=AT_ONE)
AT_TWO = replace(FINE, by=replace(AT_ONE, instance="shop/orders-2:8080"))


class Scripted:
    """A placement of which is seen what is written, again and again."""

    def __init__(self, *seen: Seen) -> None:
        self._seen = cycle(seen)

    def ask(self, asked: Asked) -> Seen:
        return next(self._seen)


def test_who_does_the_same_passes():
    check_placement(Scripted(FINE), Scripted(FINE), [ASKED, OFTEN])


def test_chance_may_take_another_turn_but_must_come_to_the_same():
    check_placement(Scripted(FINE, AT_TWO), Scripted(AT_TWO, FINE), [OFTEN])
    with pytest.raises(AssertionError, match="orders-2"):
        check_placement(Scripted(FINE), Scripted(FINE, AT_TWO), [OFTEN])


CHANGES: list[Callable[[Seen], Seen]] = [
    lambda seen: replace(seen, status=403),
    lambda seen: replace(seen, headers=()),
    lambda seen: replace(seen, headers=(*FINE_HEADERS, ("x-masche-denied", "shop/deny rules[0]"))),
    lambda seen: replace(seen, by=None),
    lambda seen: replace(seen, by=replace(AT_ONE, target="/b")),
    lambda seen: replace(seen, by=replace(AT_ONE, authority="stock")),
    lambda seen: replace(seen, by=replace(AT_ONE, peer="")),
    lambda seen: replace(seen, by=replace(AT_ONE, headers=(("x-a", "1"), ("x-a", "2")))),
    lambda seen: replace(seen, copies=(AT_TWO.by,) if AT_TWO.by else ()),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_different_is_found(change: Callable[[Seen], Seen]):
    assert list(differences(Scripted(change(FINE)), Scripted(FINE), ASKED))
    assert list(differences(Scripted(FINE), Scripted(change(FINE)), ASKED))


def test_what_is_meant_to_differ_is_not_named():
    timed = replace(FINE, headers=(("x-b", "1"), ("date", "now"), ("server", "uvicorn")))
    traced = replace(FINE, by=replace(AT_ONE, headers=(("x-a", "1"), ("traceparent", "00-1-1-00"))))
    check_placement(Scripted(timed), Scripted(FINE), [ASKED])
    check_placement(Scripted(traced), Scripted(FINE), [ASKED])
    check_placement(Scripted(replace(FINE, headers=None)), Scripted(FINE), [ASKED])


def test_several_lines_of_a_header_are_one_list():
    apart = replace(FINE, by=replace(AT_ONE, headers=(("x-a", "1"), ("x-a", "2"))))
    check_placement(Scripted(apart), Scripted(replace(FINE, by=replace(AT_ONE, headers=(("x-a", "1, 2"),)))), [ASKED])


def test_to_which_instance_a_caller_sticks_is_not_compared():
    check_placement(Scripted(FINE), Scripted(AT_TWO), [replace(OFTEN, is_sticky=True)])
