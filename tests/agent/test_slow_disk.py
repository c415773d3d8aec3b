"""A disk that is busy (others write much, and whoever asks for durability waits for seconds) keeps no Envoy away."""

import asyncio
import os
from pathlib import Path

import pytest

from masche.agent.envoy import Place, adopt, start
from masche.agent.last_good import LastGood
from masche.wire import framing
from masche.wire.discovery import DeltaResponse, decode_delta_response, encode_delta_response
from masche.wire.types import CLUSTER


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(_: int) -> None:
        pytest.fail("the disk is waited for")

    monkeypatch.setattr(os, "fsync", waits)
    monkeypatch.setattr(os, "fdatasync", waits)


def _response(*contents: bytes) -> DeltaResponse:
    frames = [framing.blob(CLUSTER, f"c{number}", content).frame for number, content in enumerate(contents)]
    return decode_delta_response(encode_delta_response(CLUSTER, "1", frames))


async def test_an_envoy_is_started_and_can_be_adopted_without_waiting_for_the_disk(
    tmp_path: Path, nobody_waits: None
) -> None:
    binary = tmp_path / "envoy"
    binary.write_text('#!/bin/sh\nread -r line < "$0.never"\n')
    binary.chmod(0o700)
    os.mkfifo(tmp_path / "envoy.never")
    place = Place(folder=tmp_path, admin=tmp_path / "admin")
    handle = start(binary, place)
    try:
        while not (adopted := adopt(place)):  # its command line is there in a moment
            await asyncio.sleep(0.01)
        assert adopted.process == handle.process
        adopted.close()
    finally:
        handle.send(9)
        await handle.wait()
        handle.close()


def test_what_an_envoy_acknowledges_once_more_is_not_written_once_more(tmp_path: Path, nobody_waits: None) -> None:
    """After its restart it takes all that was kept before: the agent has better things to do then."""
    kept = LastGood(tmp_path / "kept")
    kept.keep(_response(b"one", b"two"))
    files = {path: path.stat().st_ino for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert len(files) == 2
    kept.keep(_response(b"one", b"other"))
    same = [path for path, inode in files.items() if path.stat().st_ino == inode]
    assert len(same) == 1
    assert [found.frame for found in kept.every(CLUSTER)] == [
        one.frame for one in _response(b"one", b"other").resources
    ]
