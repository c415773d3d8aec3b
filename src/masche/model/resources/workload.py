"""A Workload: one running instance of an application outside Kubernetes, normally registered by its proxy."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from masche.model.refs import Kind
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.scalars import DnsName, Flag, Port, PortName
from masche.model.vantage import Dialect, Placement
from masche.model.view import Protocol


class WorkloadPort(Part):
    """One port: ``port`` is what the application listens on, ``mesh_port`` where its proxy takes mutual TLS."""

    name: PortName = ""
    port: Port
    mesh_port: Port | None = None
    protocol: Protocol | None = None


class WorkloadSpec(Part):
    """Where the instance is and who it is.

    ``dependencies`` None means everything it may see; entries are ``service`` or ``service.namespace``. ``tls`` DISABLE
    is for hand-written instances without a proxy.
    """

    address: Annotated[str, Field(min_length=1, max_length=253)]
    ports: Annotated[tuple[WorkloadPort, ...], Field(max_length=64)] = ()
    service_account: DnsName = "default"
    zone: Annotated[str, Field(max_length=253)] = ""
    dependencies: Annotated[tuple[str, ...], Field(max_length=1000)] | None = None
    placement: Placement | None = None
    tls: Literal["MUTUAL", "DISABLE"] = "MUTUAL"


class WorkloadState(StrEnum):
    """Whether the instance takes traffic. DRAINING keeps open calls and gets no new ones."""

    STARTING = "STARTING"
    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"


class WorkloadStatus(Part):
    """Written by the mesh alone. ``reason`` is for people; ``exposed`` says that the application can be bypassed.

    ``process`` is which of the machine's processes registered it: "" its agent, else one with the library. ``dialect``
    is what it is configured in, which says what it carries out; None for an Envoy's.
    """

    state: WorkloadState = WorkloadState.READY
    reason: str = ""
    machine: str = ""
    process: str = ""
    proxy: str = ""
    exposed: Flag = False
    dialect: Dialect | None = None


class Workload(Manifest):
    """One instance. Without a status (written by hand) it counts as READY."""

    api_version: ClassVar[str] = "masche.dev/v1"
    kind: ClassVar[Kind] = Kind.WORKLOAD

    spec: WorkloadSpec
    status: WorkloadStatus | None = None

    @property
    def state(self) -> WorkloadState:
        """Its state; READY when nobody wrote one."""
        return self.status.state if self.status else WorkloadState.READY
