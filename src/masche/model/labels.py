"""Whether a workload is labelled as the Service that it says it belongs to usually selects its own.

A Service that the mesh makes selects by ``app``, and so do most that people write. Invariant: this only warns, as who
writes the Service decides what it selects.
"""

from collections.abc import Mapping


def outside(service: str, labels: Mapping[str, str]) -> str:
    """What to say of a workload with another ``app`` label than its service's, by which that usually selects; or ""."""
    app = labels.get("app", service)
    if app == service:
        return ""
    return (
        f"its label is app={app}, so callers of the Service {service} get to it only if that selects such\n"
        f"  fix: leave out --label app={app}, or say --service {app}"
    )
