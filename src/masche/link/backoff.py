"""How long to wait before the next attempt to reach a control plane: doubling, jittered, 0.2 s to 5 s."""

from random import Random
from typing import Final

FIRST: Final = 0.2
LAST: Final = 5.0


def pause(failures: int, *, rng: Random) -> float:
    """Seconds after the ``failures``-th failure in a row (from 1): between half and all of the doubled pause.

    The jitter spreads a herd of agents whose control plane came back.
    """
    ceiling = min(LAST, FIRST * 2.0 ** min(failures - 1, 30))
    return max(FIRST, ceiling * rng.uniform(0.5, 1.0))
