"""Which Services a vantage is given: its namespace's and those exported to it, or exactly its dependencies.

Invariant: a Service that is not exported to a namespace is never given there, declared or not.
"""

from masche.compiler.names import service_of
from masche.model.mesh import Mesh
from masche.model.resources.core import Service
from masche.model.vantage import Vantage


def services(mesh: Mesh, vantage: Vantage) -> tuple[Service, ...]:
    """Return the Services in scope, sorted by name."""
    if vantage.dependencies is None:
        candidates = list(mesh.services.values())
    else:
        wanted = {service_of(word, vantage.namespace) for word in vantage.dependencies}
        candidates = [mesh.services[name] for name in wanted if name in mesh.services]
    visible = (service for service in candidates if is_exported(service, vantage.namespace))
    return tuple(sorted(visible, key=lambda service: service.name))


def is_exported(service: Service, namespace: str) -> bool:
    """Say whether callers of a namespace may see the Service; its own always may."""
    return service.name.namespace == namespace or bool({"*", namespace} & set(service.exported_to))
