"""Decode a Listener: that of a client (``api_listener``, gRFC A27) or that of a server (gRFC A36).

Invariant: which of the two it is, is said by the message itself.
"""

from typing import Any

from masche.model.told import Table, Told, ToldServer
from masche.model.view import Fault
from masche.wire.decode import filters, managers, servers
from masche.wire.decode.reading import message_of, named, only, seconds_or, unpacked
from masche.wire.decode.routes import of_message
from masche.wire.framing import WireError

LISTENER = "envoy.config.listener.v3.Listener"


def listener(name: str, data: bytes) -> Told | ToldServer:
    """Decode one Listener.

    Raises:
        WireError: something in it cannot be carried out.
    """
    message = message_of(LISTENER, data)
    own = named(message, name, "Listener")
    return _client(message, own) if message.HasField("api_listener") else servers.server(message, own)


def _client(message: Any, where: str) -> Told:
    only(message, where, {"name", "api_listener", "metadata", "stat_prefix", "traffic_direction", "address"})
    manager = unpacked(message.api_listener.api_listener, managers.MANAGER)
    managers.check(manager, where)
    found, table_name = _table(manager, where)
    return Told(
        name=where,
        table=found,
        table_name=table_name,
        fault=_fault(manager, where),
        max_duration=seconds_or(manager.common_http_protocol_options, "max_stream_duration", 0.0, where),
    )


def _table(manager: Any, where: str) -> tuple[Table | None, str]:
    match manager.WhichOneof("route_specifier"):
        case "route_config":
            return of_message(manager.route_config), ""
        case "rds":
            source = manager.rds.config_source.WhichOneof("config_source_specifier")
            if source not in {"ads", "self"} or not manager.rds.route_config_name:
                raise WireError(f"{where}: routes are asked for by name, over the one stream there is")
            return None, manager.rds.route_config_name
        case other:
            raise WireError(f"{where}: {other or 'no table of routes'} is not carried out here")


def _fault(manager: Any, where: str) -> Fault | None:
    found = None
    for kind, packed in managers.filters(manager, where):
        if kind != managers.FAULT:
            raise WireError(f"{where}: a client has no use for {kind}")
        found = filters.fault(unpacked(packed, managers.FAULT), where)
    return found
