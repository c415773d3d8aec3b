"""RateLimitPolicy: how many requests each instance of a workload takes in a time.

An empty list means "not written". Durations are Gateway API durations. ``docs/rate-limits.md`` explains each field to
its user; the ranges stand in ``model.validate_limits``.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from masche.model.limits import KeyKind
from masche.model.matching import PathKind
from masche.model.refs import Kind
from masche.model.resources.gateway_api import HTTPHeaderMatch, Method, Text1024
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.scalars import Count, Duration, HeaderName
from masche.model.resources.security import PolicyTargetReference, WorkloadSelector


class LimitPath(Part):
    """How the path is compared, as an HTTPRoute does."""

    type: Literal[PathKind.EXACT, PathKind.PREFIX] = PathKind.PREFIX
    value: Text1024 = "/"


class LimitMatch(Part):
    """All conditions must hold, as in an HTTPRoute. Without a path it is the prefix ``/``."""

    path: LimitPath = LimitPath()
    method: Method | None = None
    headers: Annotated[tuple[HTTPHeaderMatch, ...], Field(max_length=16)] = ()


class LimitBy(Part):
    """What tells buckets apart; ``name`` of the header."""

    type: KeyKind
    name: HeaderName | None = None


class LocalLimit(Part):
    """At most ``requests`` in every ``per``, and ``burst`` of them at once (without: as many as ``requests``)."""

    requests: Count
    per: Duration
    burst: Count | None = None
    matches: Annotated[tuple[LimitMatch, ...], Field(max_length=8)] = ()
    key: LimitBy | None = None


class RateLimitPolicySpec(Part):
    """For which workloads, and what each instance of them takes."""

    selector: WorkloadSelector | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Field(max_length=16)] = ()
    local: Annotated[tuple[LocalLimit, ...], Field(min_length=1, max_length=16)]


class RateLimitPolicy(Manifest):
    """How many requests each instance of some workloads takes."""

    api_version: ClassVar[str] = "masche.dev/v1"
    kind: ClassVar[Kind] = Kind.RATE_LIMIT_POLICY

    spec: RateLimitPolicySpec
