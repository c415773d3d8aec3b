"""The variables by which an application learns where its mesh is.

Decided from the services that it may call and the local ports chosen for them; what the user set stays, except the
proxy variables, which are the mesh's to set.
"""

from collections.abc import Iterable, Mapping

from masche.link.messages import ScopeService
from masche.model.refs import PortRef
from masche.model.view import Protocol

NEVER_PROXIED = ("localhost", "127.0.0.1", "::1")
"""Loopback is never proxied."""


def variables(namespace: str, services: Iterable[ScopeService], local_ports: Mapping[PortRef, int]) -> dict[str, str]:
    """``<SERVICE>_URL`` and ``<SERVICE>_ADDR`` of each service, ``<SERVICE>_<NAMESPACE>_...`` for other namespaces.

    The first port of a service (by number, HTTP before TCP) has the bare names; the others ``<SERVICE>_<PORT>_...``.
    A name that two services would share goes to the one of the own namespace, then to the first by name.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for service in sorted(services, key=lambda one: _rank(one, namespace)):
        port = local_ports.get(service.port)
        if port is None:
            continue
        prefix = _prefix(service.port, namespace)
        owner = (service.port.namespace, service.port.service)
        if owner in seen:
            prefix = f"{prefix}_{service.port.port}"
        seen.add(owner)
        scheme = "tcp" if service.protocol is Protocol.TCP else "http"
        found.setdefault(f"{prefix}_URL", f"{scheme}://127.0.0.1:{port}")
        found.setdefault(f"{prefix}_ADDR", f"127.0.0.1:{port}")
    return found


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
