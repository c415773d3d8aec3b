"""FaultPolicy: trouble made on purpose for those who call a Service, to see what they do about it.

``docs/fault-policy.md`` explains each field to its user; the ranges stand in ``model.validate_faults``.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from masche.model.refs import Kind
from masche.model.resources.gateway_api import HTTPHeaderMatch
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.scalars import Duration, Int, Share
from masche.model.resources.traffic_policy import TrafficTarget


class FaultDelay(Part):
    """So many percent of the calls wait for ``time`` before they are sent."""

    time: Duration
    percent: Share


class FaultAbort(Part):
    """So many percent of the calls are answered ``status`` and never sent."""

    status: Int
    percent: Share


class FaultPolicySpec(Part):
    """Which Services, what trouble, and which calls: those that have all of these headers."""

    target_refs: Annotated[tuple[TrafficTarget, ...], Field(min_length=1, max_length=16)]
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    headers: Annotated[tuple[HTTPHeaderMatch, ...], Field(max_length=16)] = ()


class FaultPolicy(Manifest):
    """Trouble for the callers of some Services."""

    api_version: ClassVar[str] = "masche.dev/v1"
    kind: ClassVar[Kind] = Kind.FAULT_POLICY

    spec: FaultPolicySpec
