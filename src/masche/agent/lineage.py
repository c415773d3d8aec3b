"""Envoys that follow each other in one place without a call lost: what Envoy calls a hot restart.

A successor is told which line it is of and how many were before it. It asks the one before for its listening sockets,
those in other network namespaces among them, takes over the admin socket, and once it serves has the one before say
goodbye to its connections and end. Invariants: no two lines share a number, so neither shares memory or sockets with
the other; whoever started an Envoy of a line may end without ending it.

For the last an Envoy is no child of ours: with hot restart it asks the kernel to be ended with whoever started it
(``PR_SET_PDEATHSIG``), so a shell starts it that has ended before it runs, and it is init's.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from masche.agent.processes import ProcessId, identify

DRAIN_SECONDS: Final = 10
"""How long connections of a changed listener may finish: for so long an old policy may still hold on an old TCP one."""

PARENT_SECONDS: Final = DRAIN_SECONDS + 2
"""How long an Envoy outlives the moment in which its successor serves; then what is still open is cut."""

_MOST_BASE: Final = 99_999_999
"""Its tenfold and an epoch must fit in 32 bits, and in the path of a Unix socket."""

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where shm_open(3) keeps what Envoy calls envoy_shared_memory_*
_DETACHED: Final = 'exec 3<&0; ( read -r _ <&3 || exit; exec "$@" 3<&- </dev/null >&2 ) & echo "$!"'
"""Starts what it is given once a line has been read, which is written when this shell has ended."""

_ATTEMPT_SECONDS: Final = 10.0


class Line(msgspec.Struct, frozen=True):
    """Which line an Envoy is of, and how many of it were before; ``base`` 0 for one that can have no successor."""

    base: int = 0
    epoch: int = 0

    def arguments(self, admin: Path) -> tuple[str, ...]:
        """What it is started with; its sockets are beside the one of ``admin``, for this user alone."""
        if not self.base:
            return ("--disable-hot-restart",)
        return (
            *("--base-id", str(self.base), "--restart-epoch", str(self.epoch), "--skip-hot-restart-on-no-parent"),
            *("--socket-path", str(_sockets(admin)), "--socket-mode", "0600"),
            *("--parent-shutdown-time-s", str(PARENT_SECONDS)),
        )

    def after(self) -> "Line":
        """The next one of the line."""
        return Line(self.base, self.epoch + 1)

    def clear(self, admin: Path) -> None:
        """Remove what a line has left, none of whom runs any more."""
        if self.base:
            (_SHARED_MEMORY / f"envoy_shared_memory_{self.base}0").unlink(missing_ok=True)
            for path in admin.parent.glob(f"{_sockets(admin).name}_*_{self.base}[0-9]"):
                path.unlink(missing_ok=True)


def begun() -> Line:
    """A new line."""
    return Line(int.from_bytes(os.urandom(4)) % _MOST_BASE + 1)


def _sockets(admin: Path) -> Path:
    return admin.with_suffix("")


def start_detached(words: Sequence[str], log: int) -> ProcessId | None:
    """Start a program in a session of its own that outlives us, as a child of init; None when it has ended at once."""
    shell = subprocess.Popen(  # noqa: S603 - a shell of ours, and the operator's own binary with arguments of ours
        ["/bin/sh", "-c", _DETACHED, "sh", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={"PATH": os.environ.get("PATH", "")},
        start_new_session=True,
    )
    assert shell.stdin, "it is a pipe"
    assert shell.stdout, "it is a pipe"
    with shell.stdin, shell.stdout:
        said = shell.stdout.readline()
        shell.wait(_ATTEMPT_SECONDS)
        found = identify(int(said)) if said.strip().isdigit() else None
        shell.stdin.write(b"go\n")
    return found
