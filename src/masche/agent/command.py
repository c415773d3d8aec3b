"""The command of ``masche run``: started so that it dies with its runner, signalled, and waited for.

Invariant: the command never outlives its runner, even one that was killed with SIGKILL.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

from masche.agent.capture.inside import User, enter_namespace, keep_apart
from masche.agent.processes import Handle, ProcessId, identify, members

CANNOT_RUN, NOT_FOUND = 126, 127
"""Exit codes for a command that cannot be started, as shells have them."""

_PR_SET_PDEATHSIG = 1


class CommandError(Exception):
    """The command could not be started; ``code`` is the exit code that says so."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    is_service: bool,
    namespace_path: str = "",
    user: User | None = None,
) -> Handle:
    """Start it, in the network namespace of that file and as that user, if they are said.

    A service gets a process group of its own, so that Ctrl-C asks the runner for an orderly end. A job stays in the
    terminal's group and may read from it.

    Raises:
        CommandError: there is no such command, or it cannot be executed.
    """
    if namespace_path and not os.path.exists(namespace_path):  # noqa: PTH110 - a string, handed on as it came
        raise CommandError(f"the network namespace {namespace_path} is not to be seen from here", CANNOT_RUN)
    try:
        child = subprocess.Popen(  # noqa: S603 - running the user's own command is what `masche run` is for
            list(arguments),
            env={**environment, **user.environment} if user else dict(environment),
            process_group=0 if is_service else None,
            preexec_fn=_becoming(os.getpid(), is_service, namespace_path, user),  # noqa: PLW1509 - the runner has one thread
        )
    except FileNotFoundError as error:
        raise CommandError(f"{arguments[0]}: command not found", NOT_FOUND) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise CommandError(f"{arguments[0]}: cannot be run: {error}", CANNOT_RUN) from error
    child.returncode = 0  # the Handle reaps it by its pidfd
    process = identify(child.pid)
    handle = Handle.open(process) if process else None
    return handle or _ended(child.pid)


def _ended(pid: int) -> Handle:
    """A Handle on a child that ended before it could be looked at: its pid is ours until we reap it."""
    return Handle(ProcessId(pid, 0), os.pidfd_open(pid))


def _becoming(runner: int, is_service: bool, namespace_path: str, user: User | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        if namespace_path:
            enter_namespace(namespace_path)
        if namespace_path and user:
            keep_apart()  # where the kernel cannot, a user of its own does it
        if user:
            user.become()
        # After that, as to become somebody else takes this promise back.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != runner:  # it died between fork and prctl
            os.kill(os.getpid(), signal.SIGKILL)
        if is_service:  # reading the terminal from its background then fails instead of stopping the process
            signal.signal(signal.SIGTTIN, signal.SIG_IGN)

    return prepare


async def stop(handle: Handle, number: int, grace: float) -> None:
    """Send ``number`` (SIGTERM or what the user sent), and SIGKILL to what is left of it after ``grace`` seconds."""
    handle.send(number)
    try:
        async with asyncio.timeout(grace):
            await handle.wait()
    except TimeoutError:
        handle.send(signal.SIGKILL)
        await handle.wait()


async def clear(group: int, grace: float) -> None:
    """End what the command, which has ended, left of its process group: SIGTERM, and after ``grace`` seconds SIGKILL.

    A shell that ends without its children (``sh -c 'X=1 server'``) would leave them outside of the mesh, on their port.
    """
    left = [handle for process in members(group) if (handle := Handle.open(process))]
    await asyncio.gather(*(stop(handle, signal.SIGTERM, grace) for handle in left))


def exit_code(handle: Handle) -> int:
    """The command's code as a shell would say it: 128 + n when signal n ended it."""
    code = handle.code or 0
    return 128 - code if code < 0 else code
