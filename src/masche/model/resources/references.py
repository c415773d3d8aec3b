"""How Gateway API resources point at others: by group, kind, name, and sometimes namespace, section and port."""

from typing import Literal

from masche.model.resources.meta import FrozenMap, Labels, Part
from masche.model.resources.scalars import Group, KindName, NamespaceName, ObjectName, Port, SectionName

GROUP = "gateway.networking.k8s.io"


class ParentReference(Part):
    """What a route attaches to: a Gateway (north-south) or a Service (east-west, GAMMA)."""

    group: Group = GROUP
    kind: KindName = "Gateway"
    namespace: NamespaceName | None = None
    name: ObjectName
    section_name: SectionName | None = None
    port: Port | None = None


class BackendObjectReference(Part):
    """Where requests go: a Service and its port."""

    group: Group = ""
    kind: KindName = "Service"
    name: ObjectName
    namespace: NamespaceName | None = None
    port: Port | None = None


class LocalObjectReference(Part):
    """An object of the same namespace."""

    group: Group
    kind: KindName
    name: ObjectName


class SecretObjectReference(Part):
    """A Secret, possibly of another namespace (which then needs a ReferenceGrant)."""

    group: Group = ""
    kind: KindName = "Secret"
    name: ObjectName
    namespace: NamespaceName | None = None


class ObjectReference(Part):
    """An object of any kind, possibly of another namespace."""

    group: Group
    kind: KindName
    name: ObjectName
    namespace: NamespaceName | None = None


class ParametersReference(Part):
    """Parameters of an implementation; masche has none."""

    group: Group
    kind: KindName
    name: ObjectName
    namespace: NamespaceName | None = None


class LabelSelectorRequirement(Part):
    """``key In (values)`` and its three sisters."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Part):
    """All labels and all expressions must hold; an empty selector selects everything."""

    match_labels: Labels = FrozenMap()
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
