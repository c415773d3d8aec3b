"""A noun says what a dataclass says, and weighs less."""

import copy
import gc
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model.frozen import frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    name: str
    count: int = 0
    note: str = field(default="", compare=False)
    hidden: str = field(default="", repr=False)


PLAIN = Told


@frozen
class Told:  # of the same name, so that both say the same
    name: str
    count: int = 0
    note: str = field(default="", compare=False)
    hidden: str = field(default="", repr=False)


@frozen(kw_only=False)
class Pair:
    one: object
    other: object = ()


@frozen
class Nothing:
    pass


values = st.fixed_dictionaries(
    {"name": st.sampled_from("ab")},
    optional={"count": st.integers(0, 1), "note": st.sampled_from("xy"), "hidden": st.sampled_from("xy")},
)


@given(one=values, other=values)
def test_it_is_equal_hashed_and_shown_as_a_dataclass_is(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (Told(**one) == Told(**other)) is (PLAIN(**one) == PLAIN(**other))
    assert hash(Told(**one)) == hash(PLAIN(**one))
    assert repr(Told(**one)) == repr(PLAIN(**one))


def test_it_never_equals_what_is_of_another_class() -> None:
    assert Told(name="a") != PLAIN(name="a")
    assert Pair(1) != (1, ())
    assert Nothing() == Nothing() != Pair(1)
    assert len({Nothing(), Nothing()}) == 1


def test_its_fields_are_told_once() -> None:
    noun = Pair(1, 2)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'one'"):
        noun.one = 3  # type: ignore[misc] # what is asserted
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'one'"):
        del noun.one
    with pytest.raises(FrozenInstanceError):
        noun.more = 3  # type: ignore[attr-defined] # it has no such field
    assert not hasattr(noun, "__dict__")
    assert replace(noun, other=4) == Pair(1, 4)
    assert [each.name for each in fields(noun)] == ["one", "other"]


def test_it_is_copied_and_sent_as_any_value() -> None:
    assert copy.deepcopy(Pair(1, [2])) == Pair(1, [2])
    assert pickle.loads(pickle.dumps(Pair(1, 2))) == Pair(1, 2)  # made one word before


def test_one_that_holds_itself_can_be_shown() -> None:
    held: list[object] = []
    held.append(Pair(1, held))
    assert repr(held) == "[Pair(one=1, other=[...])]"


def test_what_a_class_defines_itself_stays() -> None:
    @frozen
    class Secret:
        key: str

        def __repr__(self) -> str:
            return "Secret(...)"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Secret)

        def __hash__(self) -> int:
            return 7

    assert repr(Secret(key="k")) == "Secret(...)"
    assert Secret(key="k") == Secret(key="other")
    assert hash(Secret(key="k")) == 7


def test_the_class_that_it_was_before_it_had_slots_is_forgotten() -> None:
    def classes(name: str) -> int:
        gc.collect()
        return sum(isinstance(each, type) and each.__qualname__ == name for each in gc.get_objects())

    @frozen
    class Lonely:
        field: int

    assert classes(Lonely.__qualname__) == 1
