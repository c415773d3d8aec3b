"""Whether a reference across namespaces is allowed: only by a ReferenceGrant in the namespace that is referred to."""

from collections.abc import Mapping

from masche.model.refs import Name
from masche.model.resources.gateway_api import ReferenceGrant

Thing = tuple[str, str, str]
"""Group, kind and namespace of whoever refers."""


def is_granted(grants: Mapping[Name, ReferenceGrant], *, source: Thing, group: str, kind: str, target: Name) -> bool:
    """Say whether ``source`` may refer to ``target``; within one namespace it always may."""
    if source[2] == target.namespace:
        return True
    return any(
        name.namespace == target.namespace
        and any((each.group, each.kind, each.namespace) == source for each in grant.spec.from_)
        and any((each.group, each.kind) == (group, kind) and each.name in {None, target.name} for each in grant.spec.to)
        for name, grant in grants.items()
    )
