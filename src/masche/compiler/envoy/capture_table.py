"""Encode the table of routes for captured requests: one virtual host per (Service, port), found by the address that
the application connected to.

All workloads with the same ways out share one table. Its name says of whom it is and not what is in it, so that a route
that changes changes no listener. Invariant: a Host header chooses nothing, since the header that chooses is written
over before a route is looked for, and taken away before a request leaves.
"""

from functools import lru_cache
from hashlib import blake2b

from masche.compiler.envoy import witness
from masche.compiler.envoy.parts import early, header
from masche.compiler.envoy.route_tables import answer, configuration, refs_of_outbound, table_of, virtual_host
from masche.compiler.envoy.seated import is_shared
from masche.compiler.remember import by_identity
from masche.model.blob import Blob
from masche.model.view import Outbound, View
from masche.wire.framing import text

_HEADER = "x-masche-destination"

WHERE_TO = early({"append": header(_HEADER, "%DOWNSTREAM_LOCAL_ADDRESS%", "OVERWRITE_IF_EXISTS_OR_ADD")})
"""Writes down, before all else, where the application connected to."""

_CHOOSING = text(18, _HEADER) + text(8, _HEADER)
"""``RouteConfiguration.vhost_header`` (number 18) and ``request_headers_to_remove`` (number 8)."""

_NOBODY = "no port of a Service that this workload may call has this address"


def name(view: View) -> str:
    """Return the name of a workload's table: of its namespace and what it declares that it calls."""
    called = view.vantage.dependencies
    whom = "all" if called is None else blake2b("\n".join(called).encode(), digest_size=8).hexdigest()
    return f"capture/{view.vantage.namespace}/{whom}"


def table(view: View) -> Blob:
    """Return the table; encoded once for all that share it."""
    made, named, is_node = _made(view.outbound), name(view), is_shared(view.vantage)
    if (named, is_node) not in made:
        made[named, is_node] = _table(named, view.outbound, is_node=is_node)
    return made[named, is_node]


@by_identity
def _made(_outbounds: tuple[Outbound, ...]) -> dict[tuple[str, bool], Blob]:
    """What was made of these ways so far: to look at a thousand of them again takes longer than all else."""
    return {}


@lru_cache(maxsize=256)
def _table(named: str, outbounds: tuple[Outbound, ...], *, is_node: bool) -> Blob:
    called = [each for each in outbounds if each.protocol.is_http and each.addresses]
    own = (witness.HOST,) if is_node else ()
    hosts = [
        *own,
        *(_host(each, is_node=is_node) for each in called),
        virtual_host("nobody", ("*",), answer(404, _NOBODY)),
    ]
    refs = frozenset(ref for each in called for ref in refs_of_outbound(each))
    return configuration(named, hosts, refs, _CHOOSING)


@lru_cache(maxsize=65_536)
def _host(outbound: Outbound, *, is_node: bool) -> bytes:
    service = outbound.service
    authority = f"{service.service}.{service.namespace}"
    return virtual_host(service.path, _domains(outbound), table_of(outbound.routes, authority, is_shared=is_node))


def _domains(outbound: Outbound) -> tuple[str, ...]:
    """As ``%DOWNSTREAM_LOCAL_ADDRESS%`` spells it."""
    port = outbound.service.port
    return tuple(f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in outbound.addresses)
