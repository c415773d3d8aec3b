from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.control.ejections import Ejections
from masche.control.panics import panicking
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING, Steer, Steering

ORDERS = PortRef("shop", "orders", 80)


def terrain(size: int, *, healthy: int) -> Terrain:
    sites = tuple(Site(f"shop/orders-{number}", "", number < healthy) for number in range(size))
    return Terrain(ports={ORDERS: Ground(sites=sites)})


def test_envoy_panics_below_one_percent_and_it_is_said_then_and_only_then():
    assert panicking(terrain(4, healthy=1), NO_STEERING, Ejections()) == {}
    assert panicking(terrain(100, healthy=1), NO_STEERING, Ejections()) == {}
    said = panicking(terrain(200, healthy=1), NO_STEERING, Ejections())
    assert said == {ORDERS: "shop/orders:80: only 1 healthy; calls go to all 200 of them"}


def test_who_is_ejected_is_not_healthy():
    steering = Steering(steers={(ORDERS, ""): Steer(ejected=frozenset({"shop/orders-0"}))})
    assert panicking(terrain(3, healthy=2), steering, Ejections()) == {}
    said = panicking(terrain(3, healthy=1), steering, Ejections())
    assert said == {ORDERS: "shop/orders:80: no healthy instance; calls go to all 3 of them"}
