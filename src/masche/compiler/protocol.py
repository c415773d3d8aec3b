"""What is spoken on a port of a Service: ``appProtocol`` if written, else the prefix of the port's name, else HTTP.

Invariant: whatever is encrypted end to end, or that nobody here can parse, is TCP.
"""

from masche.model.resources.core import Service, ServicePort
from masche.model.view import Protocol

_KNOWN = {
    "http": Protocol.HTTP,
    "http1": Protocol.HTTP,
    "kubernetes.io/ws": Protocol.HTTP,
    "ws": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "h2c": Protocol.HTTP2,
    "kubernetes.io/h2c": Protocol.HTTP2,
    "grpc": Protocol.GRPC,
    "kubernetes.io/grpc": Protocol.GRPC,
}
_BYTES = frozenset({"https", "kubernetes.io/wss", "wss", "tls", "tcp", "mongo", "mysql", "redis", "postgres"})


def protocol(port: ServicePort) -> Protocol:
    """Decide for one port. An ``appProtocol`` that is unknown here is carried as bytes."""
    if port.app_protocol:
        return _KNOWN.get(port.app_protocol.lower(), Protocol.TCP)
    prefix = port.name.partition("-")[0]
    return Protocol.TCP if prefix in _BYTES else _KNOWN.get(prefix, Protocol.HTTP)


def ports(service: Service) -> tuple[ServicePort, ...]:
    """Return the ports that the mesh carries: TCP ones."""
    return tuple(port for port in service.spec.ports if port.protocol == "TCP")


def bare_port(service: Service) -> int:
    """Return the port meant by a name without one: 80 if there is one, else the first that speaks HTTP, else 0."""
    web = [port.port for port in ports(service) if protocol(port).is_http]
    return 80 if 80 in web else next(iter(web), 0)
