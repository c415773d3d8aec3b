"""Encode the listener in which connections arrive that others make straight to a captured workload, past its mesh
ports.

What holds on a mesh port holds here: the same filter chains, for each port of the application that is declared.
Invariant: a port that is not declared has no chain, so a connection to it ends.
"""

from masche.compiler.envoy import edge
from masche.compiler.envoy.capture import ORIGINAL_DESTINATION, addresses
from masche.compiler.envoy.inbound import LISTENER, TLS_INSPECTOR, Served, chains
from masche.model.blob import Blob
from masche.model.vantage import Seat
from masche.model.view import MtlsMode
from masche.wire import framing, types
from masche.wire.messages import Body, Json, encode


def blobs(served: tuple[Served, ...], seat: Seat) -> tuple[Blob, ...]:
    """Return the listener; nothing where nothing arrives so."""
    if seat.capture is None or not seat.capture.inbound_port or not served:
        return ()
    name = served[0].seated.capture_inbound
    body: dict[str, Json] = {
        "name": name,
        **addresses(seat, seat.capture.inbound_port),
        "traffic_direction": "INBOUND",
        **edge.LISTENER,
        **_inspected(served),
        "filter_chains": [chain for each in served for chain in _of_port(each)],
    }
    refs = frozenset(ref for each in served for ref in each.refs)
    return (framing.blob(types.LISTENER, name, encode(LISTENER, body), refs),)


def _of_port(served: Served) -> list[Body]:
    return [
        {
            **chain,
            "name": f"{served.name}/{chain['name']}",
            "filter_chain_match": {**_match(chain), "destination_port": served.port.app_port},
        }
        for chain in chains(served)
    ]


def _match(chain: Body) -> Body:
    match = chain.get("filter_chain_match")
    return match if isinstance(match, dict) else {}


def _inspected(served: tuple[Served, ...]) -> Body:
    """Only where both are welcome somebody has to look whether a connection begins with TLS."""
    both = [each.port.app_port for each in served if each.mode is MtlsMode.PERMISSIVE]
    if not both:
        return {"listener_filters": [ORIGINAL_DESTINATION]}
    ports: list[Json] = [{"destination_port_range": {"start": port, "end": port + 1}} for port in both]
    inspected = {"or_match": {"rules": ports}} if len(ports) > 1 else ports[0]
    inspector: Body = {**TLS_INSPECTOR, "filter_disabled": {"not_match": inspected}}
    return {
        "listener_filters": [ORIGINAL_DESTINATION, inspector],
        "continue_on_listener_filters_timeout": True,
    }
