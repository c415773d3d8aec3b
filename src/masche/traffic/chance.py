"""What balancing needs of chance: two draws. ``random.Random`` offers them; a seeded one makes every test repeat."""

from typing import Protocol


class Chance(Protocol):
    """A source of random numbers, handed in as ``rng``."""

    def random(self) -> float:
        """Draw from [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Draw from [0, 2**k)."""
        ...
