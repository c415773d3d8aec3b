"""How a Service and a workload are called: host names as a caller of some namespace writes them, and SPIFFE IDs."""

from masche.model.refs import Name

SUFFIXES = ("", ".svc", ".mesh", ".svc.cluster.local")


def hosts(service: Name, caller_namespace: str) -> tuple[str, ...]:
    """Return the names of a Service without ports; the short one means the caller's own namespace and no other."""
    full = tuple(f"{service.name}.{service.namespace}{suffix}" for suffix in SUFFIXES)
    return (service.name, *full) if service.namespace == caller_namespace else full


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """Return ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def service_of(word: str, own_namespace: str) -> Name:
    """Read an entry of ``spec.dependencies``: ``service`` or ``service.namespace``."""
    name, _, namespace = word.partition(".")
    return Name(namespace or own_namespace, name)
