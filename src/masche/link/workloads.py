"""How workloads, their ports and their proxies are called, and which names may be given. Pure.

A workload's name is made of what it is and which of its kind on this machine, so that a workload which starts again is
the same one.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final
from typing import Protocol as Shape

import msgspec

from masche.model.refs import Name
from masche.model.vantage import Placement
from masche.model.view import Protocol

LABEL: Final = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""An RFC 1123 label: a namespace, a Service."""

NAME: Final = re.compile("[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
"""An RFC 1123 subdomain: a service account, a workload."""

MOST_ALIKE: Final = 10_000
"""So many workloads of one kind may run on one machine."""


class UnfitError(ValueError):
    """Something cannot be a workload; ``fix`` says what to change."""

    def __init__(self, why: str, *, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


class Port(Shape):
    """One port of an application; ``protocol`` "" lets its name decide (``grpc``, ``tcp-db``), else it is HTTP."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    @property
    def name(self) -> str:
        """Its name, or ""."""
        ...

    @property
    def protocol(self) -> str:
        """What is spoken, or ""."""
        ...


def names(namespace: str, stem: str, what: Sequence[Any]) -> Iterator[Name]:
    """The names that a workload may have that ``what`` describes, of which it gets the first that is free."""
    stem = stem[:50].rstrip("-.")
    for index in range(MOST_ALIKE):
        digest = blake2b(msgspec.json.encode([*what, index]), digest_size=8).hexdigest()
        yield Name(namespace, f"{stem}-{digest[:6]}")


def proxy_id(name: Name, placement: Placement) -> str:
    """``Node.id`` of xDS."""
    return f"{placement}~{name.name}.{name.namespace}"


def node_proxy_id(machine: str) -> str:
    """``Node.id`` of the one proxy that serves the workloads of a machine."""
    return f"{Placement.NODE}~{machine}"


def protocol_of(port: Port) -> Protocol:
    """What is spoken on a port: as declared, else as the name of the port begins (``grpc-api``), else HTTP.

    Raises UnfitError.
    """
    if port.protocol:
        try:
            return Protocol(port.protocol)
        except ValueError:
            known = ", ".join(Protocol)
            raise UnfitError(f"no protocol {port.protocol!r} on port {port.port}", fix=f"use one of {known}") from None
    prefix = port.name.partition("-")[0]
    return Protocol(prefix) if prefix in set(Protocol) else Protocol.HTTP


def port_names(ports: Iterable[Port]) -> tuple[str, ...]:
    """A name for each port: its own, or its protocol and, from the second on, its place."""
    return tuple(
        port.name or (protocol_of(port).value if index == 0 else f"{protocol_of(port).value}-{index + 1}")
        for index, port in enumerate(ports)
    )
