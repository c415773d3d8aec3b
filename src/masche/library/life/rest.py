"""When this process rests: no thread of gRPC is left, nor anything of our own, so that a fork does no harm.

gRPC is here for applications that call by it (``outlet``) alone.

A thread that Python has joined goes on for moments: OpenSSL tidies up behind it, with a lock held for which a child, in
which there is no such thread, would wait for ever.
"""

import asyncio
import gc
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

REST_WITHIN: Final = 1.0
"""Seconds that gRPC has to let go of its last call and to end its threads, and a thread of ours to be gone."""

NATIVE_WITHIN: Final = 0.1
"""Seconds that threads have to end which neither Python nor, by their names, gRPC started: they may be somebody's for
good.
"""

GRPC: Final = ("event_engine", "lifeguard", "grpc_")
"""How the names of gRPC's threads begin. On a busy machine they need longer to end than others are waited for."""


async def until_grpc_rests() -> None:
    """Wait until gRPC has let go of its last call, so that its threads are gone: a fork would break it otherwise.

    What it still has to say it says in the loop that made the call. An application with calls of its own keeps it busy.
    """
    began = time.monotonic()
    for attempt in range(1000):
        waited = time.monotonic() - began
        is_busy = any("_poll_wrapper" in each.name for each in threading.enumerate()) or _has_threads_of_grpc()
        if waited > REST_WITHIN or (not is_busy and (waited > NATIVE_WITHIN or not _has_native_threads())):
            return
        if attempt % 20 == 10:
            gc.collect()  # what is part of a cycle is in use until then
        await asyncio.sleep(0.002)


def until_gone(thread: threading.Thread) -> None:
    """Wait until the system, too, knows nothing of a thread that has ended. Where it does not tell, return at once."""
    began = time.monotonic()
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() - began < REST_WITHIN:  # noqa: PTH110 - no file
        time.sleep(0.0002)


def _has_threads_of_grpc() -> bool:
    """Whether there is a thread that has such a name; False where the system does not tell."""
    found = False
    with suppress(OSError):
        for each in os.listdir("/proc/self/task"):  # noqa: PTH208 - names are enough
            with suppress(OSError):  # it has just ended
                found |= Path(f"/proc/self/task/{each}/comm").read_text(encoding="utf-8").startswith(GRPC)
    return found


def _has_native_threads() -> bool:
    """Whether there are threads that Python did not start, such as gRPC's; somebody else may have some for good."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/task")) > threading.active_count()  # noqa: PTH208 - names are enough
    return False
