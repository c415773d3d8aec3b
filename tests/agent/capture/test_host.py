import subprocess
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from masche.agent.capture import apply
from masche.agent.capture.apply import CaptureError, Shell
from masche.agent.capture.exclusions import NOTHING
from masche.agent.capture.host import Host
from masche.agent.capture.rules import table
from masche.agent.capture.sockets import in_namespace
from masche.model.refs import Name

ORDERS, PAYMENT = Name("shop", "orders-1"), Name("shop", "payment-1")

pytestmark = pytest.mark.root


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = of(tmp_path)
    yield made
    await made.cleanup()


def of(folder: Path, **options: str) -> Host:
    return Host(folder, file=folder / "hosts.json", **options)


async def test_a_workload_has_a_namespace_and_leaves_nothing(host: Host):
    place = await host.prepare(ORDERS)
    assert await host.prepare(ORDERS) == place
    assert in_namespace(place.namespace_path, lambda: apply.has_link("eth0"))
    await host.release(ORDERS)
    assert not Path(place.namespace_path).exists()
    assert not apply.links_like(host.names.links)
    assert not apply.has_link(host.names.bridge)
    await host.release(ORDERS)


async def test_a_workload_that_comes_back_has_the_same_address_under_another_agent(host: Host, tmp_path: Path):
    first, other = await host.prepare(ORDERS), await host.prepare(PAYMENT)
    await host.release(ORDERS)
    again = of(tmp_path)
    assert await again.prepare(ORDERS) == first
    assert await again.prepare(PAYMENT) == other
    assert first.address != other.address


async def test_those_who_are_there_are_left_alone_when_others_are_swept_away(host: Host):
    orders, payment = await host.prepare(ORDERS), await host.prepare(PAYMENT)
    await host.sweep({PAYMENT})
    assert not Path(orders.namespace_path).exists()
    assert in_namespace(payment.namespace_path, lambda: apply.has_link("eth0"))
    assert apply.has_link(host.names.bridge)


async def test_addresses_come_from_the_range_that_was_asked_for(tmp_path: Path):
    host = of(tmp_path, address_range="198.18.7.0/24")
    try:
        place = await host.prepare(ORDERS)
        assert place.address.startswith("198.18.7.")
    finally:
        await host.cleanup()


async def test_a_range_to_which_a_route_appeared_is_given_up_for_another(host: Host, tmp_path: Path):
    class Elsewhere(Shell):
        async def routed(self, *, but: str) -> tuple[IPv4Network, ...]:
            return (*await super().routed(but=but), IPv4Network(f"{before.address}/16", strict=False))

    before = await host.prepare(ORDERS)
    await host.release(ORDERS)
    moved = Host(tmp_path, file=tmp_path / "hosts.json", shell=Elsewhere())
    after = await moved.prepare(ORDERS)
    assert after.address.split(".")[1] != before.address.split(".")[1]
    await moved.release(ORDERS)


async def test_a_namespace_that_leads_nowhere_is_not_adopted(host: Host, netns: Path):
    with pytest.raises(CaptureError, match="no default route"):
        await host.adopt(ORDERS, netns.name)
    for name in ("n3t-missing", "../netns/" + netns.name, ""):
        with pytest.raises(CaptureError, match="there is no network namespace"):
            await host.adopt(ORDERS, name)


async def test_a_namespace_that_somebody_captures_is_not_adopted(host: Host, netns: Path):
    subprocess.run(["ip", "-n", netns.name, "route", "add", "default", "dev", "lo"], check=True)
    subprocess.run(["nsenter", f"--net={netns}", "nft", "-f", "-"], input=table(NOTHING), text=True, check=True)
    with pytest.raises(CaptureError, match="another agent captures it") as raised:
        await host.adopt(ORDERS, netns.name)
    assert "nft delete table inet masche" in raised.value.fix


async def test_a_file_that_a_killed_ip_left_where_a_namespace_was_to_be_is_replaced(host: Host):
    left = apply.path_of(host.names.namespace(ORDERS))
    left.parent.mkdir(exist_ok=True)
    left.touch()
    place = await host.prepare(ORDERS)
    assert apply.is_namespace(Path(place.namespace_path).name)


async def test_a_link_whose_other_end_is_elsewhere_is_made_anew(host: Host):
    """Whoever stays in a namespace that was removed keeps its link; the workload that comes next gets another."""
    place = await host.prepare(ORDERS)
    subprocess.run(["ip", "netns", "del", Path(place.namespace_path).name], check=True)
    again = await host.prepare(ORDERS)
    assert again == place
    assert in_namespace(again.namespace_path, lambda: apply.has_link("eth0"))


async def test_what_a_program_says_when_it_fails_is_in_the_error(tmp_path: Path):
    class Failing(Shell):
        async def run(self, arguments: Sequence[str], given: str = "") -> str:
            return await super().run(
                ("sh", "-c", "echo it is full >&2; exit 3") if "-batch" in arguments else arguments
            )

    with pytest.raises(CaptureError, match="it is full"):
        await Host(tmp_path, file=tmp_path / "hosts.json", shell=Failing()).prepare(ORDERS)


async def test_a_program_that_is_missing_is_an_error_too():
    with pytest.raises(CaptureError, match="n3t-missing cannot be run"):
        await Shell().run(("n3t-missing",))
