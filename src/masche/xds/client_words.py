"""What an xDS client and those who use it say to each other: how a resource stands, what came, and what is too much.

Nothing here decides anything; every value is frozen.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from masche.model.frozen import frozen

Decoder = Callable[[str, bytes], object]
"""Makes a value of a resource's name and its encoded message; raises with the reason when it cannot be carried out."""

Decoders = Mapping[str, Decoder]
"""By type URL."""

Key = tuple[str, str]
"""A type URL and a name."""


class Standing(StrEnum):
    """How a resource stands with us. REFUSED: what came could not be understood, and nothing good came before it."""

    ASKED = "asked for"
    HELD = "held"
    ABSENT = "does not exist"
    REFUSED = "refused"


@frozen(kw_only=False)
class Resource:
    """One resource as it stands now.

    ``why`` is set beside REFUSED, and beside HELD while a newer one than ``value`` is refused.
    """

    standing: Standing
    value: object = None
    why: str = ""


ASKED = Resource(Standing.ASKED)
ABSENT = Resource(Standing.ABSENT)


@frozen(kw_only=False)
class Refused:
    """What stands in the place of a decoded value: the reason why there is none."""

    why: str


@frozen
class Part:
    """One resource of a response that is to be decoded; ``digest`` tells it from what is held already."""

    name: str
    message: bytes
    digest: bytes


@frozen
class Incoming:
    """A response between its arrival and its answer.

    ``parts`` are to be decoded, ``seen`` are the names of all in it that were asked for, changed or not; ``errors``
    are what is wrong beyond single resources that can be named. ``stream`` tells on which stream it came.
    """

    type_url: str
    nonce: str
    version: str
    stream: int
    parts: tuple[Part, ...] = ()
    seen: frozenset[str] = frozenset()
    errors: tuple[str, ...] = ()


@frozen
class Patience:
    """Seconds. ``absent``: how long a resource may take to come before it "does not exist" (gRFC A57 has 15 s).

    ``answered``: the same once a whole response without it came, which may have crossed our request. ``forgotten``:
    how long a resource that was given up is still kept, because the control plane may not have heard of it yet.
    """

    absent: float = 15.0
    answered: float = 1.0
    forgotten: float = 60.0


@frozen
class Bounds:
    """The most that is asked of, and taken from, a control plane. ``names`` and ``resources`` are per type.

    Our own control plane ends a stream that asks for more names, or longer ones.
    """

    names: int = 10_000
    name_characters: int = 1024
    resources: int = 100_000
    reason_characters: int = 8_192


class TooMuchError(ValueError):
    """More was asked for than a control plane will answer."""
