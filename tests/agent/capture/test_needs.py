from collections.abc import Sequence
from pathlib import Path

import pytest

from masche.agent.capture import needs
from masche.agent.capture.apply import CaptureError, Shell
from masche.agent.capture.exclusions import Exclusions
from masche.agent.capture.host import Host
from masche.agent.capture.needs import Machine
from masche.model.refs import Name

ALL = (1 << 41) - 1
LINUX = {"platform": "linux", "capabilities": lambda: ALL, "which": lambda name: f"/usr/sbin/{name}", "uid": 0}


def test_linux_with_root_and_its_programs_is_enough():
    needs.check(Machine(**LINUX))


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ({"platform": "darwin"}, ["Linux", "macOS"]),
        ({"capabilities": lambda: 0, "uid": 1000}, ["uid 1000", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "as root"]),
        ({"capabilities": lambda: ALL & ~(1 << 21)}, ["root here", "CAP_SYS_ADMIN"]),
        ({"which": lambda name: None if name == "nft" else name}, ["`nft`", "package nftables"]),
        ({"which": lambda _: None, "capabilities": lambda: 0}, ["`ip`", "`nft`", "`nsenter`", "CAP_NET_ADMIN"]),
    ],
)
def test_what_a_machine_lacks_is_said_in_one_message_with_what_works_instead(
    lacking: dict[str, object], words: list[str]
):
    with pytest.raises(CaptureError) as raised:
        needs.check(Machine(**{**LINUX, **lacking}))
    for word in words:
        assert word in str(raised.value)
    assert "--placement sidecar without --capture" in raised.value.fix
    assert "--placement library" in raised.value.fix


class Kernel(Shell):
    """A machine on whose kernel some words of commands do not work."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = lacking

    async def run(self, arguments: Sequence[str], given: str = "") -> str:
        if any(word in arguments or word in given for word in self.lacking):
            raise CaptureError("Operation not supported")
        return ""


async def test_a_kernel_without_a_part_is_told_by_that_part():
    failed = CaptureError("`nft -f -` failed")
    explained = await needs.explained(Kernel("nft"), failed)
    assert "nf_tables" in str(explained)
    assert "veth" not in str(explained)
    assert "`nft -f -` failed" in str(explained)
    assert "library" in explained.fix
    assert "bridge" in str(await needs.explained(Kernel("bridge"), failed))
    assert "network namespaces" in str(await needs.explained(Kernel("unshare"), failed))


async def test_what_fails_on_a_kernel_that_has_everything_is_left_as_it_is():
    failed = CaptureError("a disk is full")
    assert await needs.explained(Kernel(), failed) is failed


@pytest.mark.root
async def test_this_kernel_passes_the_trials_that_judge_others():
    failed = CaptureError("something else")
    assert await needs.explained(Shell(), failed) is failed


async def test_nothing_is_touched_where_something_is_lacking(tmp_path: Path):
    class Untouched(Shell):
        async def run(self, arguments: Sequence[str], given: str = "") -> str:
            raise AssertionError(arguments)

    there = Machine(**{**LINUX, "platform": "darwin"})
    host = Host(tmp_path, file=tmp_path / "hosts.json", shell=Untouched(), machine=there)
    with pytest.raises(CaptureError, match="macOS"):
        await host.prepare(Name("shop", "orders"))
    with pytest.raises(CaptureError, match="macOS"):
        await host.adopt(Name("shop", "orders"), "there")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "exclusions",
    [
        Exclusions(outbound_ports=(0,)),
        Exclusions(inbound_ports=(65536,)),
        Exclusions(uids=(-1,)),
        Exclusions(outbound_addresses=("10.0.0.0/33",)),
        Exclusions(outbound_addresses=("10.0.0.1 } drop",)),
    ],
)
async def test_what_cannot_be_excluded_is_refused_before_nft_sees_it(tmp_path: Path, exclusions: Exclusions):
    host = Host(tmp_path, file=tmp_path / "hosts.json", shell=Kernel(), machine=Machine(**LINUX))
    with pytest.raises(CaptureError, match="exclude"):
        await host.prepare(Name("shop", "orders"), exclusions=exclusions)
