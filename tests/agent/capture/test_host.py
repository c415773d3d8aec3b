from pathlib import Path

import pytest

from masche.agent.capture import apply
from masche.agent.capture.host import Host
from masche.agent.capture.sockets import in_namespace
from masche.model.refs import Name

ORDERS = Name("shop", "orders-1")

pytestmark = pytest.mark.root


async def test_a_workload_has_a_namespace_and_leaves_nothing(tmp_path: Path):
    host = Host(tmp_path, file=tmp_path / "capture.json")
    try:
        place = await host.prepare(ORDERS)
        again = await host.prepare(ORDERS)
        assert again == place
        assert in_namespace(place.namespace_path, lambda: apply.has_link("eth0"))
    finally:
        await host.release(ORDERS)
    assert not Path(place.namespace_path).exists()
    assert not apply.links_like(host.names.links)
    assert not apply.has_link(host.names.bridge)
