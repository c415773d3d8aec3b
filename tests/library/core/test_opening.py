"""The beginning of a call: what is of the mesh goes to the mesh, however its name is written."""

import pytest

from library.core.scripted import Counted
from library.town import passthrough
from masche.library.core import opening
from masche.library.core.exchange import Asked
from masche.library.core.facade import Facade
from masche.library.core.opening import Opened
from masche.library.core.router import Outside
from masche.library.core.tls import Certificates
from masche.model.told import Table
from masche.model.view import VirtualHost
from masche.testing.check_knowledge import cluster, instances, route
from masche.testing.static_knowledge import StaticKnowledge, World
from masche.traffic.request import Request

ORDERS = "outbound/shop/orders/80"
OTHERS = passthrough()
WORLD = World(
    table=Table(name="proxy", hosts=(VirtualHost(hosts=("orders", "orders:80"), routes=(route(ORDERS),)), OTHERS.host)),
    destinations=(cluster(ORDERS), *OTHERS.destinations.values()),
    endpoints={ORDERS: instances(ORDERS, "10.0.0.1")},
)


def kind_of(authority: str) -> type[object]:
    knowledge = StaticKnowledge(WORLD)
    facade = Facade(knowledge=knowledge, identity=Certificates(), recorder=Counted())
    known = knowledge.known(authority)
    assert known is not None
    return type(opening.opened(facade, known, Asked(Request(authority=authority))))


@pytest.mark.parametrize("authority", ["orders", "ORDERS", "orders.", "orders:80", "Orders.:80"])
def test_a_name_of_the_mesh_never_goes_out_as_a_stranger_s(authority: str):
    """Its owner would be called in plaintext, past every policy."""
    assert kind_of(authority) is Opened


@pytest.mark.parametrize("authority", ["example.org", "orders.example.org.", "orders:81"])
def test_what_is_not_of_the_mesh_goes_out_as_it_did_before(authority: str):
    assert kind_of(authority) is Outside
