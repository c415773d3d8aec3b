"""The variables by which an application learns where its mesh is.

Decided from the services that it may call and from how they are reached: by a local port each, or by name where its
connections are captured. What the user set stays, except the proxy variables, which are the mesh's to set.
"""

from collections.abc import Callable, Iterable, Mapping

from masche.link.messages import ScopeService
from masche.model.refs import PortRef
from masche.model.view import Protocol

NEVER_PROXIED = ("localhost", "127.0.0.1", "::1")
"""Loopback is never proxied."""


def variables(namespace: str, services: Iterable[ScopeService], reached: Callable[[PortRef], str]) -> dict[str, str]:
    """``<SERVICE>_URL`` and ``<SERVICE>_ADDR`` of each service, ``<SERVICE>_<NAMESPACE>_...`` for other namespaces.

    ``reached`` says at which ``host:port`` one is reached from there ("": not at all). The first port of a service (by
    number, HTTP before TCP) has the bare names; the others ``<SERVICE>_<PORT>_...``. A name that two services would
    share goes to the one of the own namespace, then to the first by name.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for service in sorted(services, key=lambda one: _rank(one, namespace)):
        address = reached(service.port)
        if not address:
            continue
        prefix = _prefix(service.port, namespace)
        owner = (service.port.namespace, service.port.service)
        if owner in seen:
            prefix = f"{prefix}_{service.port.port}"
        seen.add(owner)
        scheme = "tcp" if service.protocol is Protocol.TCP else "http"
        found.setdefault(f"{prefix}_URL", f"{scheme}://{address}")
        found.setdefault(f"{prefix}_ADDR", address)
    return found


def beside(local_ports: Mapping[PortRef, int]) -> Callable[[PortRef], str]:
    """Reach each service at the local port that was opened for it."""
    return lambda port: f"127.0.0.1:{local_ports[port]}" if port in local_ports else ""


def by_name(port: PortRef) -> str:
    """Reach a service by its name in the mesh's DNS, at its own port."""
    return f"{port.service}.{port.namespace}.mesh:{port.port}"


def _rank(one: ScopeService, namespace: str) -> tuple[bool, str, str, bool, int]:
    port = one.port
    return port.namespace != namespace, port.namespace, port.service, one.protocol is Protocol.TCP, port.port


def _prefix(port: PortRef, namespace: str) -> str:
    parts = (port.service,) if port.namespace == namespace else (port.service, port.namespace)
    return "_".join("".join(letter if letter.isalnum() else "_" for letter in part.upper()) for part in parts)


def proxied(proxy_port: int) -> dict[str, str]:
    """The proxy variables in both spellings, as clients differ in which one they read."""
    url = f"http://127.0.0.1:{proxy_port}"
    return {"HTTP_PROXY": url, "http_proxy": url}


def complete(user: Mapping[str, str], mesh: Mapping[str, str], port: int) -> dict[str, str]:
    """The command's whole environment: the user's, the mesh's, and where to listen (``port`` 0: nowhere)."""
    environment = {**user, **mesh}
    if "HTTP_PROXY" in mesh:
        own = user.get("NO_PROXY") or user.get("no_proxy") or ""
        names = [name.strip() for name in own.split(",") if name.strip()]
        names += [name for name in NEVER_PROXIED if name not in names]
        environment["NO_PROXY"] = environment["no_proxy"] = ",".join(names)
    if port:
        environment["HOST"] = mesh.get("HOST", "127.0.0.1")
        environment.setdefault("PORT", str(port))
    return environment
