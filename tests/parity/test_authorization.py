"""What the library decides about a request that came to its port, and what a real Envoy does with the same bytes.

Thousands of policies stand in one Envoy at a time, each on a route of its own, so that a case costs one request. The
library reads what our control plane sends to its servers.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from live.client import Answer
from live.mesh import Live, living
from masche.compiler.proxyless import library_servers
from masche.library.inbound.deciding import DENIED, Admitted, Shown, Spot, receive
from masche.model.refs import Name
from masche.model.told import ToldServer
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Inbound, InboundPort, MtlsMode, Protocol
from masche.wire import framing
from masche.wire.decode import listeners
from parity.guarded import CALLEE, Guarded, guarded
from parity.policies import Case, cases

SEED = 20261123
BATCH = 2000
"""Cases that one Envoy is given at a time."""
ORDERS = "shop/orders-1"

Say = Callable[[str, object], None]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living() as running:
        yield running


@pytest.fixture(scope="module")
def guard(live: Live) -> Iterator[Guarded]:
    with guarded(live) as found:
        yield found


def test_2000_cases_are_decided_as_envoy_decides_them(guard: Guarded, record_property: Say):
    agree(guard, 2000, record_property)


@pytest.mark.long
def test_20000_cases_are_decided_as_envoy_decides_them(guard: Guarded, record_property: Say):
    agree(guard, 20_000, record_property)


def agree(guard: Guarded, count: int, say: Say) -> None:
    """Put so many cases to both, and show those on which they differ."""
    found: Counter[str] = Counter()
    wrong: list[str] = []
    every = cases(SEED, count, ports=guard.ports, addresses=guard.addresses)
    while some := list(islice(every, BATCH)):
        guard.load([case.policies for case in some])
        for index, case in enumerate(some):
            answer, said = in_envoy(guard.ask(case, index)), in_library(case, guard)
            found[said] += 1
            if answer != said:
                wrong.append(f"Envoy {answer!r}, the library {said!r}: {case}")
    say("parity", f"authorization: {count} cases, seed {SEED}, {len(wrong)} differences, {_outcomes(found)}")
    assert not wrong, "\n".join([f"{len(wrong)} of {count} (seed {SEED}) differ", *wrong[:20]])
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
