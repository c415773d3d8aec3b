"""Who keeps off whom: by caller, with the cause, and only while the caller is there."""

from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.control.ejections import HELD, Ejections
from masche.control.panics import panicking
from masche.model.refs import Name, PortRef
from masche.model.steering import NO_STEERING, Steer, Steering

ORDERS = PortRef("shop", "orders", 80)
ONE, TWO = Name("shop", "orders-1"), Name("shop", "orders-2")
PANIC = {ORDERS: "shop/orders:80: no healthy instance; calls go to all 2 of them"}


def terrain(*states: str) -> Terrain:
    sites = tuple(Site(f"shop/orders-{number}", "", state == "well") for number, state in enumerate(states, 1))
    return Terrain(ports={ORDERS: Ground(sites=sites)})


def test_the_first_word_of_each_proxy_is_news_and_its_repetition_is_not():
    ejections = Ejections()
    assert ejections.note((ORDERS, ONE), "web-1", is_ejected=True, at=0.0, cause="5 errors in a row")
    assert not ejections.note((ORDERS, ONE), "web-1", is_ejected=True, at=0.0)
    assert ejections.note((ORDERS, ONE), "web-2", is_ejected=True, at=0.0)
    assert ejections.reason(ORDERS, ONE) == "2 callers have cut it off: 5 errors in a row"
    assert ejections.note((ORDERS, ONE), "web-1", is_ejected=False, at=0.0)
    assert not ejections.note((ORDERS, ONE), "web-1", is_ejected=False, at=0.0)
    assert ejections.reason(ORDERS, ONE) == "1 caller has cut it off"


def test_what_a_proxy_held_leaves_with_it_and_with_the_instance():
    ejections = Ejections()
    ejections.note((ORDERS, ONE), "web-1", is_ejected=True, at=0.0)
    ejections.note((ORDERS, TWO), "web-2", is_ejected=True, at=0.0)
    ejections.keep_only({"web-1", "web-2"}, {ONE}, now=1.0)
    assert ejections.of(ORDERS) == (ONE,)
    ejections.keep_only({"web-2"}, {ONE}, now=1.0)
    assert len(ejections) == 0


def test_what_is_not_said_again_ends_for_an_idle_endpoint_that_is_let_in_again_is_in_no_report():
    ejections = Ejections()
    ejections.note((ORDERS, ONE), "web-1", is_ejected=True, at=0.0, cause="5 errors in a row")
    ejections.note((ORDERS, TWO), "web-1", is_ejected=True, at=0.0)
    ejections.note((ORDERS, ONE), "web-1", is_ejected=True, at=HELD)
    ejections.keep_only({"web-1"}, {ONE, TWO}, now=HELD + 1)
    assert ejections.of(ORDERS) == (ONE,)
    assert ejections.reason(ORDERS, ONE) == "1 caller has cut it off: 5 errors in a row", "the cause is kept"
    ejections.keep_only({"web-1"}, {ONE, TWO}, now=2 * HELD + 1)
    assert len(ejections) == 0


def test_a_service_panics_when_all_its_instances_are_unhealthy():
    assert panicking(terrain("sick", "sick"), NO_STEERING, Ejections()) == PANIC
    assert panicking(terrain("sick", "well"), NO_STEERING, Ejections()) == {}
    assert panicking(terrain(), NO_STEERING, Ejections()) == {}, "without instances there is nobody to call"


def test_a_service_panics_when_the_healthy_ones_are_ejected_for_a_zone_or_by_one_caller():
    for_a_zone = Steering(steers={(ORDERS, "a"): Steer(ejected=frozenset({"shop/orders-2"}))})
    assert panicking(terrain("sick", "well"), for_a_zone, Ejections()) == PANIC
    assert panicking(terrain("well", "well"), for_a_zone, Ejections()) == {}
    ejections = Ejections()
    ejections.note((ORDERS, ONE), "web-1", is_ejected=True, at=0.0)
    ejections.note((ORDERS, TWO), "web-2", is_ejected=True, at=0.0)
    assert panicking(terrain("well", "well"), NO_STEERING, ejections) == {}, "each has one left"
    ejections.note((ORDERS, TWO), "web-1", is_ejected=True, at=0.0)
    assert panicking(terrain("well", "well"), NO_STEERING, ejections) == PANIC
