"""Gives memory back that was only needed to start: freed heap, and file pages that nobody reads any more.

Linux reads a dropped page again from its file when it is touched, so this costs a little time and no correctness.
"""

import ctypes
import gc
from pathlib import Path

MADV_PAGEOUT = 21
"""From <asm-generic/mman-common.h>, since Linux 5.4; older kernels refuse it and nothing happens."""


def give_back() -> None:
    """Trim the heap and drop this process's clean, file-backed pages."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None, use_errno=True)
    if trim := getattr(libc, "malloc_trim", None):  # glibc has it, musl has not
        trim(0)
    for start, size in _file_mappings():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_PAGEOUT)


def _file_mappings() -> list[tuple[int, int]]:
    """Private mappings of files that are not writable: program text and constants."""
    found: list[tuple[int, int]] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/") and "w" not in fields[1]:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append((start, end - start))
    return found
