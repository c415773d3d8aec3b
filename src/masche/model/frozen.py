"""What a noun is: a class whose fields are told once and never change.

``frozen`` makes what ``@dataclass(frozen=True, slots=True)`` makes, at 40 % of the weight. A dataclass gets six methods
of its own, two of which keep alive the class that it was before it had slots; a process with the library has more than
a hundred such classes. Here each gets its ``__init__``, and shares the rest.
Invariant: equality, hash and ``repr`` say what those of a dataclass say, and what a class defines itself stays.
"""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform, overload

Class = TypeVar("Class", bound=type)


@overload
def frozen(cls: Class, /) -> Class: ...


@overload
def frozen(*, kw_only: bool = True) -> Callable[[Class], Class]: ...


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(cls: Any = None, /, *, kw_only: bool = True) -> Any:
    """Make a class a noun: a frozen dataclass with slots, whose fields are told by name unless ``kw_only`` is False."""

    def made(plain: Any) -> Any:
        return _shared(dataclass(frozen=True, slots=True, kw_only=kw_only, eq=False, repr=False)(plain))

    return made if cls is None else made(cls)


def _shared(cls: Any) -> Any:
    """Give a dataclass that has only an ``__init__`` the methods that all nouns share."""
    compared = [each.name for each in fields(cls) if each.compare]
    cls._compared = attrgetter(*compared) if compared else staticmethod(_nothing)
    own = cls.__dict__
    for method in (__eq__, __repr__):
        if method.__name__ not in own:
            setattr(cls, method.__name__, method)
    if own.get("__hash__") is None:  # also where a class has an ``__eq__`` of its own, as in a dataclass
        cls.__hash__ = __hash__
    cls.__setattr__, cls.__delattr__ = __setattr__, __delattr__
    return cls


def _nothing(_noun: object) -> tuple[()]:
    return ()


def __eq__(self: Any, other: Any) -> bool:  # noqa: N807 # a method of every noun, as are those that follow
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self._compared
    return values(self) == values(other)


def __hash__(self: Any) -> int:  # noqa: N807 # of every noun
    return hash(self._compared(self))


@recursive_repr()
def __repr__(self: Any) -> str:  # noqa: N807 # of every noun
    told = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({told})"


def __setattr__(_self: Any, name: str, _value: object) -> None:  # noqa: N807 # of every noun
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def __delattr__(_self: Any, name: str) -> None:  # noqa: N807 # of every noun
    raise FrozenInstanceError(f"cannot delete field {name!r}")
