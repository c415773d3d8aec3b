"""What the library decides about a request that came to its port, and what a real Envoy does with the same bytes.

Thousands of policies stand in one Envoy at a time, each on a route of its own, so that a case costs one request. The
library reads what our control plane sends to its servers.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from live.client import Answer
from live.mesh import Live
from masche.compiler.proxyless import library_servers
from masche.library.inbound.deciding import DENIED, Admitted, Shown, Spot, receive
from masche.model.refs import Name
from masche.model.told import ToldServer
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Inbound, InboundPort, MtlsMode, Protocol
from masche.wire import framing
from masche.wire.decode import listeners
from parity.agreement import SEED, Say, differences, judge
from parity.guarded import CALLEE, Guarded, GuardedNeighbours, guarded
from parity.policies import Case, cases

BATCH = 2000
"""Cases that one Envoy is given at a time."""
ORDERS = "shop/orders-1"


@pytest.fixture(scope="module")
def guard(live: Live) -> Iterator[Guarded]:
    with guarded(live) as found:
        yield found


def test_2000_cases_are_decided_as_envoy_decides_them(guard: Guarded, record_property: Say):
    agree(guard, 2000, record_property)


@pytest.mark.long
def test_20000_cases_are_decided_as_envoy_decides_them(guard: Guarded, record_property: Say):
    agree(guard, 20_000, record_property)


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.long)])
def test_neighbours_on_a_node_are_judged_as_the_library_judges_them(
    live: Live, count: int, record_property: Say
) -> None:
    """Who shows no certificate and is known by where its connection was captured meets the same policies."""
    with guarded(live, GuardedNeighbours) as guard:
        agree(guard, count, record_property)


def agree(guard: Guarded, count: int, say: Say) -> None:
    """Put so many cases to both, and show those on which they differ."""
    found: Counter[str] = Counter()

    def differ(case: Case, index: int) -> str:
        answer, said = in_envoy(guard.ask(case, index)), in_library(case, guard)
        found[said] += 1
        return "" if answer == said else f"Envoy {answer!r}, the library {said!r}: {case}"

    some = cases(SEED, 2 * count, ports=guard.ports, addresses=guard.addresses)
    every = islice((each for each in some if each.caller or not isinstance(guard, GuardedNeighbours)), count)
    wrong = differences(every, BATCH, lambda some: guard.load([case.policies for case in some]), differ)
    judge("authorization", count, wrong, _outcomes(found), say)
    assert min(found["200"], found["403"], found["400"]) > count / 20, f"cases of all kinds: {_outcomes(found)}"


def in_envoy(answer: Answer) -> str:
    """The status, and who refused where that is said."""
    return f"{answer.status} {answer.header(DENIED) or ''}".strip()


def in_library(case: Case, guard: Guarded) -> str:
    """The same, decided in memory."""
    port = guard.ports[case.family]
    shown = Shown(peer=f"spiffe://{case.caller}", certificate="", local=CALLEE) if case.caller else None
    said = receive(
        told(case, port),
        case.seen(port, guard.addresses[case.family]),
        spot=Spot(workload=ORDERS, port=port),
        shown=shown,
        request_id="id",
    )
    if isinstance(said, Admitted):
        return "200"
    named = dict(said.headers).get(DENIED, "")
    return f"{said.status} {named if 'rules[' in named else ''}".strip()


def told(case: Case, port: int) -> Inbound:
    """What a server makes of the bytes that our control plane sends for these policies."""
    spoken = InboundPort(target=port, protocol=Protocol.HTTP)
    inbound = Inbound(mtls=MtlsMode.PERMISSIVE, ports=(spoken,), policies=case.policies)
    at = SeatPort(name="", app_port=port, mesh_port=port)
    seat = Seat(workload=Name("shop", "orders-1"), bind="127.0.0.1", ports=(at,))
    blob = library_servers.listener(inbound, seat, at)
    found = listeners.listener(blob.name, framing.message_of(blob))
    assert isinstance(found, ToldServer)
    return found.inbound


def _outcomes(found: Counter[str]) -> str:
    statuses: Counter[str] = Counter()
    for said, number in found.items():
        statuses[said[:3]] += number
    return ", ".join(f"{number} x {status}" for status, number in statuses.most_common())
