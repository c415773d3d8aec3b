"""The mesh in this process: one thread of its own, started by the first call, that keeps it known, certified and told.

``facade()`` is what transports and servers are given; ``resident()`` is for whoever starts, serves and ends. Nothing
runs before it is needed, an import starts nothing, and applications never wait for this thread's loop, nor it for
theirs. A fork begins afresh in the child: another workload, another key, nothing of the parent's.
"""

import atexit
import os
import sys
from importlib import import_module
from threading import Lock
from typing import Any

from masche.library.core.facade import Facade
from masche.library.life.options import Options, OptionsError
from masche.library.life.residence import Resident

_lock = Lock()
_the_one: Resident | None = None


def facade() -> Facade:
    """The mesh as the clients of this process hold it: always the same. Starts nothing before something is called.

    Raises OptionsError when neither arguments nor the environment say who this process is.
    """
    one = _the_one  # read once, and never unmade again: most questions need no lock
    return one.facade if one is not None else resident().facade


def resident() -> Resident:
    """The resident of this process, made with the first question from ``MASCHE_...`` variables. Raises OptionsError."""
    with _lock:
        return _the_one or _made({})


def load() -> None:
    """Load now what the resident's thread would load with the first call: before a fork, so that children share it."""
    import_module("masche.library.life.life")
    import_module("masche.library.life.asking")


def configure(**given: Any) -> Resident:
    """Say who this process is by arguments, named as the fields of ``Options``; before anything of it is used.

    Raises OptionsError, also when this process is somebody else already.
    """
    with _lock:
        if _the_one is None:
            return _made(given)
        if Options.read(given) != _the_one.options:
            raise OptionsError(
                f"this process is {_the_one!r} already: call configure() once, before the first transport is made"
            )
        return _the_one


def _made(given: dict[str, Any]) -> Resident:
    global _the_one  # noqa: PLW0603 - one resident per process is what this module is for
    _the_one = Resident(Options.read(given))
    return _the_one


def _close() -> None:
    if _the_one is not None:
        _the_one.close()


def _before_fork() -> None:
    _lock.acquire()
    if _the_one is not None:
        _the_one.pause()


def _after_in_parent() -> None:
    if _the_one is not None:
        _the_one.go_on()
    _lock.release()


def _after_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held what is inside of the old one
    _lock = Lock()
    if _the_one is not None:
        _the_one.begin_afresh()


atexit.register(_close)
if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
