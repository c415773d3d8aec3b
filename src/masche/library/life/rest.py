"""When this process rests: no thread of gRPC is left, nor anything of our own, so that a fork does no harm.

A thread that Python has joined goes on for moments: OpenSSL tidies up behind it, with a lock held for which a child, in
which there is no such thread, would wait for ever.
"""

import asyncio
import gc
import os
import threading
import time
from contextlib import suppress
from typing import Final

REST_WITHIN: Final = 1.0
"""Seconds that gRPC has to let go of its last call."""

NATIVE_WITHIN: Final = 0.1
"""Seconds that gRPC has to end its threads once nothing is left for them to do."""


async def until_grpc_rests() -> None:
    """Wait until gRPC has let go of its last call, so that its threads are gone: a fork would break it otherwise.

    What it still has to say it says in the loop that made the call. An application with calls of its own keeps it busy.
    """
    began = time.monotonic()
    for attempt in range(1000):
        waited = time.monotonic() - began
        is_polling = any("_poll_wrapper" in each.name for each in threading.enumerate())
        if waited > REST_WITHIN or (not is_polling and (waited > NATIVE_WITHIN or not _has_native_threads())):
            return
        if attempt % 20 == 10:
            gc.collect()  # what is part of a cycle is in use until then
        await asyncio.sleep(0.002)


def until_gone(thread: threading.Thread) -> None:
    """Wait until the system, too, knows nothing of a thread that has ended. Where it does not tell, return at once."""
    began = time.monotonic()
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() - began < NATIVE_WITHIN:  # noqa: PTH110 - no file
        time.sleep(0.0002)


def _has_native_threads() -> bool:
    """Whether there are threads that Python did not start, such as gRPC's; somebody else may have some for good."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/task")) > threading.active_count()  # noqa: PTH208 - names are enough
    return False
