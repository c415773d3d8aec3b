"""What a command's exit code says. The same list, for people, is in docs/exit-codes.md."""

from enum import IntEnum


class Exit(IntEnum):
    """``masche run`` is the exception: it exits with its command's code."""

    OK = 0
    """Done; for ``apply`` and ``delete``: live on every connected proxy that it concerns."""
    ERROR = 1
    """It failed; the message says why and what to do."""
    USAGE = 2
    """The command line itself is wrong, or masche is installed without what the command needs."""
    REJECTED = 3
    """Stored, but a proxy refused its configuration; it keeps serving the last good one."""
    PENDING = 4
    """Stored, but not live everywhere when the time was up."""
    UNREACHABLE = 5
    """No control plane answers."""
    DENIED = 6
    """The control plane does not accept the credentials."""
    NOT_FOUND = 7
    """What was named does not exist."""
    INVALID = 8
    """The documents have mistakes, all of which were printed; nothing was stored."""
    NO = 9
    """The answer is no: ``why`` (the call would fail), ``diff`` (there are differences), ``check`` (an error)."""
    DEFECT = 70
    """A mistake in masche itself; MASCHE_DEBUG=1 shows the traceback."""
    INTERRUPTED = 130
    """Stopped with Ctrl-C."""
