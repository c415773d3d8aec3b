"""Istio's security kinds: AuthorizationPolicy (who may call) and PeerAuthentication (must it be mutual TLS).

An empty list means "not written", as in Istio: a rule without ``from_`` takes any source, a policy without rules never
matches (so an ALLOW without rules denies everything), and a rule ``{}`` matches everything.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from masche.model.refs import Kind
from masche.model.resources.meta import FrozenMap, Labels, Manifest, Part
from masche.model.resources.scalars import Group, KindName, NamespaceName, ObjectName
from masche.model.view import Decision

API_VERSION = "security.istio.io/v1"

Texts = tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...]


class WorkloadSelector(Part):
    """Workloads that have all of these labels."""

    match_labels: Labels = FrozenMap()


class PolicyTargetReference(Part):
    """What a policy is about: a Service or a Gateway of its own namespace."""

    group: Group = ""
    kind: KindName
    name: ObjectName
    namespace: NamespaceName | None = None


class Source(Part):
    """Where a request comes from. Fields are ANDed, the values of one field are ORed."""

    principals: Texts = ()
    not_principals: Texts = ()
    request_principals: Texts = ()
    not_request_principals: Texts = ()
    namespaces: Texts = ()
    not_namespaces: Texts = ()
    service_accounts: Texts = ()
    not_service_accounts: Texts = ()
    ip_blocks: Texts = ()
    not_ip_blocks: Texts = ()
    remote_ip_blocks: Texts = ()
    not_remote_ip_blocks: Texts = ()


class Operation(Part):
    """What a request does. Fields are ANDed, the values of one field are ORed; ports are those of the application."""

    hosts: Texts = ()
    not_hosts: Texts = ()
    ports: Texts = ()
    not_ports: Texts = ()
    methods: Texts = ()
    not_methods: Texts = ()
    paths: Texts = ()
    not_paths: Texts = ()


class RuleFrom(Part):
    """One allowed source."""

    source: Source


class RuleTo(Part):
    """One operation."""

    operation: Operation


class AttributeCondition(Part):
    """A condition on an attribute: ``source.ip``, ``request.headers[x-token]``, ``connection.sni`` and others."""

    key: str
    values: Texts = ()
    not_values: Texts = ()


class AuthorizationRule(Part):
    """Any of ``from_`` and any of ``to`` and all of ``when``."""

    from_: Annotated[tuple[RuleFrom, ...], Field(max_length=512)] = ()
    to: tuple[RuleTo, ...] = ()
    when: tuple[AttributeCondition, ...] = ()


class AuthorizationPolicySpec(Part):
    """For which workloads, what is decided, and when."""

    selector: WorkloadSelector | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Field(max_length=16)] = ()
    action: Decision = Decision.ALLOW
    rules: Annotated[tuple[AuthorizationRule, ...], Field(max_length=512)] = ()


class AuthorizationPolicy(Manifest):
    """Who may do what to which workloads."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.AUTHORIZATION_POLICY

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()


class PeerMode(StrEnum):
    """UNSET inherits from the namespace, then from the mesh."""

    UNSET = "UNSET"
    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


class MutualTLS(Part):
    """How peers must authenticate."""

    mode: PeerMode = PeerMode.UNSET


class PeerAuthenticationSpec(Part):
    """For which workloads (all of the namespace without a selector), and per application port."""

    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: FrozenMap[int, MutualTLS] = FrozenMap()


class PeerAuthentication(Manifest):
    """Whether callers must show a certificate."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.PEER_AUTHENTICATION

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
