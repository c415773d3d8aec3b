"""The folder in which gRPC, in a process of the library, finds the key of that process."""

from pathlib import Path

import pytest

from masche.identity.presented import Presented
from masche.library.core.ports import NotReadyError
from masche.library.life import outlet
from masche.library.life.outlet import Outlet
from masche.model.refs import Name


def presented() -> Presented:
    raise NotReadyError("no certificate yet")


def an_outlet() -> Outlet:
    return Outlet(Name("shop", "web-1"), service="web", zone="", presented=presented)


@pytest.mark.parametrize("has_memory", [True, False])
def test_it_is_in_memory_where_there_is_some_for_this_user_alone_and_goes_with_it(
    has_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    monkeypatch.setattr(outlet, "_IN_MEMORY", str(memory))
    if has_memory:
        memory.mkdir()
    made = an_outlet()
    folder = made.bootstrap.parent
    assert folder.parent == (memory if has_memory else disk)
    assert folder.stat().st_mode & 0o777 == 0o700
    made.close()
    assert not folder.exists()
