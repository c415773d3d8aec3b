"""What is said to the agent of a data folder from outside: how it is, that it is to renew its Envoy, and that it ends.

For scripts and demonstrations, and for people.
"""

import os
import select
import socket
import time
from contextlib import suppress
from signal import SIGTERM, pidfd_send_signal

import msgspec

from masche.agent import local
from masche.agent.folders import Folders
from masche.agent.local import AgentStatus, AskStatus, Denied, Prove, Proved, Upgrade, Upgraded


def ask_status(folders: Folders, *, within: float = 2.0) -> AgentStatus | None:
    """What the agent says of itself; None when there is none."""
    try:
        return msgspec.json.decode(_ask(folders, local.line(AskStatus()), within=within), type=AgentStatus)
    except (OSError, msgspec.DecodeError):
        return None


def upgrade(folders: Folders, *, within: float = 120.0) -> Upgraded | Denied | None:
    """Have the agent replace the Envoy that serves several workloads; None when there is no agent, or no answer."""
    try:
        return msgspec.json.decode(_ask(folders, local.line(Upgrade()), within=within), type=Upgraded | Denied)
    except (OSError, msgspec.DecodeError):
        return None


def prove(folders: Folders, *, within: float = 30.0) -> Proved | None:
    """As whom the calls of the workloads arrive that share a proxy; None when there is no agent, or no answer."""
    try:
        return msgspec.json.decode(_ask(folders, local.line(Prove()), within=within), type=Proved)
    except (OSError, msgspec.DecodeError):
        return None


def _ask(folders: Folders, line: bytes, *, within: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(within)
        one.connect(str(folders.agent_socket))
        one.sendall(line)
        with one.makefile("rb") as file:
            return file.readline(local.MAX_LINE_BYTES)


def stop_agent(folders: Folders, *, within: float = 20.0) -> bool:
    """Wait until every seat is free, at most half of ``within`` seconds, then end the agent; say whether it is gone."""
    deadline = time.monotonic() + within
    while (status := ask_status(folders)) and status.seats and time.monotonic() < deadline - within / 2:
        time.sleep(0.05)
    if status is None:
        return True
    try:
        descriptor = os.pidfd_open(status.pid)
    except ProcessLookupError:
        return True
    try:
        with suppress(ProcessLookupError):
            pidfd_send_signal(descriptor, SIGTERM)
        left = max(0.0, deadline - time.monotonic())
        return bool(select.select([descriptor], [], [], left)[0])
    finally:
        os.close(descriptor)
