"""Keeps the agent and the Envoys beside it small: gives back freed heap, and file pages that nobody reads any more.

Linux reads a dropped page again from its file when it is touched, so this costs a little time and no correctness. It is
for an Envoy that nobody calls through: one that works keeps its pages.
"""

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From <malloc.h>."""

_LARGE_BYTES: Final = 128 * 1024
"""What is larger has pages of its own, and what is free at the end of the heap is at most so much."""

MADV_PAGEOUT: Final = 21
"""From <asm-generic/mman-common.h>, since Linux 5.4; older kernels refuse it and nothing happens."""

_PROCESS_MADVISE: Final = 440
"""The number of the system call since Linux 5.10, the same on every architecture that has Envoy."""


class _Range(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


def stay_small() -> None:
    """Let what is freed go back by itself. To be called before there are threads.

    glibc learns from large messages to keep more and more of what is freed, and gives each thread a heap of its own.
    """
    if tune := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc has it, musl has not
        tune(_M_ARENA_MAX, 1)
        tune(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        tune(_M_TRIM_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Trim the heap and drop this process's clean, file-backed pages."""
    gc.unfreeze()  # or whatever of a workload was there the last time would stay for ever
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if trim := getattr(libc, "malloc_trim", None):  # glibc has it, musl has not
        trim(0)
    for start, size in _file_mappings("self"):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_PAGEOUT)


def page_out(pid: int) -> None:
    """Drop another process's clean, file-backed pages. Pages that others use, too, stay.

    Of some 50 MB that Envoy reads of its binary in order to start, an idle one needs less than 10. Whoever may not do
    so (it takes CAP_SYS_NICE) does nothing.
    """
    with contextlib.suppress(OSError):
        ranges = [_Range(start, size) for start, size in _file_mappings(str(pid))]
        process = os.pidfd_open(pid)
        try:
            libc = ctypes.CDLL(None)
            for each in ranges:
                libc.syscall(_PROCESS_MADVISE, process, ctypes.byref(each), ctypes.c_size_t(1), MADV_PAGEOUT, 0)
        finally:
            os.close(process)


def _file_mappings(process: str) -> list[tuple[int, int]]:
    """Private mappings of files that are not writable: program text and constants."""
    found: list[tuple[int, int]] = []
    for line in Path("/proc", process, "maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/") and "w" not in fields[1]:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append((start, end - start))
    return found
