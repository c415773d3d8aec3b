"""What a proxy has asked for of one type: everything (wildcard), some names, or both.

Follows the xDS protocol, "How the client specifies what resources to return" and "Unsubscribing from resources".
Invariant: a name is wanted by the proxy exactly when ``covers`` says so.
"""

from collections.abc import Collection, Iterable

from masche.model.frozen import frozen
from masche.wire.types import CLUSTER, LISTENER

WILDCARD = "*"
IMPLICITLY_WILD = frozenset({CLUSTER, LISTENER})
"""Types of which a first request without any name means everything."""


@frozen
class Shift:
    """What a request changed.

    ``asked``: names that must be answered although the proxy may hold them ("even if it believes the client already
    has the most recent version"). ``dropped``: names it gave up. ``opened``, ``closed``: the wildcard began or ended.
    """

    asked: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    opened: bool = False
    closed: bool = False


class Subscription:
    """The names of one type on one stream."""

    __slots__ = ("_implicit", "_is_first", "_is_legacy", "is_wild", "names")

    def __init__(self, type_url: str) -> None:
        self._implicit = type_url in IMPLICITLY_WILD
        self._is_first = True
        self._is_legacy = False
        self.is_wild = False
        self.names: set[str] = set()

    def covers(self, name: str) -> bool:
        """Whether the proxy asked for this name, by itself or by the wildcard."""
        return self.is_wild or name in self.names

    def among(self, names: Collection[str]) -> Iterable[str]:
        """Return those of ``names`` that are covered."""
        return names if self.is_wild else self.names.intersection(names)

    def change(self, *, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> Shift:
        """Apply one delta request.

        A name in both lists is given up and asked for again. A name that is given up under a wildcard is answered
        once more, because the proxy cannot know otherwise whether the wildcard still holds it.
        """
        asked, dropped = set(subscribe), set(unsubscribe)
        if self._is_first and self._implicit and not asked:
            asked.add(WILDCARD)
        self._is_first = False
        was_wild = self.is_wild
        self.is_wild = WILDCARD in asked or (was_wild and WILDCARD not in dropped)
        asked.discard(WILDCARD)
        dropped.discard(WILDCARD)
        dropped &= self.names
        self.names -= dropped
        self.names |= asked
        given_up = frozenset(dropped - asked)
        return Shift(
            asked=frozenset(asked | given_up if self.is_wild else asked),
            dropped=frozenset() if self.is_wild else given_up,
            opened=self.is_wild and not was_wild,
            closed=was_wild and not self.is_wild,
        )

    def replace(self, names: Iterable[str]) -> Shift:
        """Apply one state-of-the-world request, which lists every name each time.

        "Once a client has specified a name, an empty list is no longer the wildcard."
        """
        asked = set(names)
        self._is_legacy = self._implicit and not asked and (self._is_first or self._is_legacy)
        self._is_first = False
        was_wild, before = self.is_wild, self.names
        self.is_wild = self._is_legacy or WILDCARD in asked
        self.names = asked - {WILDCARD}
        return Shift(
            asked=frozenset(self.names - before),
            dropped=frozenset(before - self.names),
            opened=self.is_wild and not was_wild,
            closed=was_wild and not self.is_wild,
        )

    def __repr__(self) -> str:
        return f"<Subscription {'* and ' if self.is_wild else ''}{len(self.names)} names>"
