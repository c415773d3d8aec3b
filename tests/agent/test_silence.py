"""Whoever waits for an agent that says nothing is told what to look at."""

import asyncio
from pathlib import Path

import pytest

from masche.agent import claimant
from masche.agent.claimant import Claimant, NoSeatError
from masche.agent.folders import Folders
from masche.agent.local import Claim
from masche.agent.options import AgentOptions


async def test_whoever_waits_for_an_agent_that_is_stopped_is_told_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes the connection of one that is stopped, and nobody reads."""
    monkeypatch.setattr(claimant, "SILENCE", 0.01)
    folders = Folders(tmp_path / "data")
    folders.prepare()
    said: list[str] = []
    waiting = Claimant(
        AgentOptions(data=tmp_path / "data"),
        Claim(service="orders", namespace="shop", service_account="orders"),
        on_message=lambda _: None,
        on_loss=lambda: False,
    )

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(silent, path=str(folders.agent_socket)):
        with pytest.raises(NoSeatError, match="no answer of the agent"):
            await waiting.take(0.5, said.append)
        waiting.release()
        writer = waiting._writer  # pyright: ignore[reportPrivateUsage] # what the end of a process would close
        assert writer
        writer.close()
        await writer.wait_closed()
    assert [("SIGCONT" in each, "agent.log" in each) for each in said] == [(True, True)]
