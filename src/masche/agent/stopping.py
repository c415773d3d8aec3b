"""Ends the agent of a data folder from outside, once nobody sits in it any more. For scripts and demonstrations."""

import os
import select
import socket
import time
from contextlib import suppress
from signal import SIGTERM, pidfd_send_signal

import msgspec

from masche.agent import local
from masche.agent.folders import Folders
from masche.agent.local import AgentStatus, AskStatus


def ask_status(folders: Folders, *, within: float = 2.0) -> AgentStatus | None:
    """What the agent says of itself; None when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.settimeout(within)
            one.connect(str(folders.agent_socket))
            one.sendall(local.line(AskStatus()))
            with one.makefile("rb") as file:
                return msgspec.json.decode(file.readline(local.MAX_LINE_BYTES), type=AgentStatus)
    except (OSError, msgspec.DecodeError):
        return None


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
