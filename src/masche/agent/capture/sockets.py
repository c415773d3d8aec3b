"""Sockets that live in another network namespace than this process: for probes, and for whoever answers names there.

A socket stays in the namespace in which it was made. So a thread is made for it, enters the namespace, opens the
socket and ends. Invariant: no thread that does anything else ever leaves the process's own namespace.
"""

import ctypes
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_SIOCGSKNS = 0x894C
"""Opens the network namespace of a socket (linux/sockios.h)."""

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def open_in(
    namespace_path: str | Path,
    family: socket.AddressFamily = socket.AF_INET,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    """Open a socket in the namespace whose file this is ("": our own). It blocks; bind or connect it where you like.

    Raises:
        OSError: there is no such namespace, it may not be entered, or it has no such family.
    """
    return in_namespace(namespace_path, lambda: socket.socket(family, kind))


def in_namespace(namespace_path: str | Path, function: Callable[[], T]) -> T:
    """Call ``function``, which must be short, from within a namespace; return what it returns, raise what it raises.

    Raises:
        OSError: there is no such namespace, or it may not be entered.
    """
    if not str(namespace_path):
        return function()
    made: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            enter(namespace_path)
            made.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            failed.append(error)

    thread = Thread(target=work, name=f"in {namespace_path}", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def lives_in(found: socket.socket, namespace_path: str | Path) -> bool:
    """Whether a socket was opened in the namespace whose file this is ("": our own).

    Raises:
        OSError: there is no such namespace, or we may not ask.
    """
    descriptor = fcntl.ioctl(found, _SIOCGSKNS)
    try:
        return os.path.samestat(os.fstat(descriptor), Path(namespace_path or "/proc/self/ns/net").stat())
    finally:
        os.close(descriptor)


def enter(namespace_path: str | Path) -> None:
    """Move the calling thread into a namespace, for good: a thread made for it, or a child about to run a command.

    Raises:
        OSError: there is no such namespace, or it may not be entered.
    """
    descriptor = os.open(namespace_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace_path))
    finally:
        os.close(descriptor)
