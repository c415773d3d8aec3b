"""When to renew a certificate that may have been obtained long ago, and how to wait for that moment."""

import asyncio
import contextlib
import time
from random import Random

from masche.identity.rotation import Rotation, rotation


def renewal(*, obtained_at: float, lifetime: float, now: float, rng: Random) -> Rotation:
    """The Rotation of a certificate; ``now`` is monotonic, the age is taken from the wall clock once, never below 0."""
    age = min(max(time.time() - obtained_at, 0.0), lifetime)
    return rotation(lifetime=lifetime, now=now - age, rng=rng)


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, but at most so long."""
    if seconds > 0 and not event.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
