"""Ends the agent of this machine from outside, in order: whoever may open its socket may end it."""

import os
import signal
import socket
import struct
import time

from masche.agent.folders import Folders

_PAUSE = 0.05


def stop_agent(folders: Folders, *, within: float) -> bool:
    """Ask the agent to end and wait until it has, at most ``within`` seconds; say whether there was one.

    The process is found by the kernel's word about the other end of its socket (SO_PEERCRED), never by a file.
    Raises TimeoutError when it does not end.
    """
    pid = _agent_pid(folders)
    if pid is None:
        return False
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        deadline = time.monotonic() + within
        while _agent_pid(folders) == pid:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the agent (process {pid}) did not end within {within:g} s")
            time.sleep(_PAUSE)
    finally:
        os.close(handle)
    return True


def _agent_pid(folders: Folders) -> int | None:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(folders.agent_socket))
        except OSError:
            return None
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", raw)[0]
