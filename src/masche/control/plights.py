"""Which instances fail whatever they are asked, as their own agents say it (``link.messages.Plight``).

Invariant: a word holds while it is repeated; an agent that falls silent takes its words with it, so that nobody is kept
off for what nobody would take back.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from masche.compiler.endpoints import application_port
from masche.compiler.selection import matches
from masche.control.words import Word
from masche.link.messages import PLIGHT_SECONDS, Plight
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef

HELD = 4 * PLIGHT_SECONDS
"""Seconds for which a word holds."""

Sufferer = tuple[Name, int]
"""A workload and a port of its application."""


@dataclass(slots=True)
class Plights:
    """Who suffers now, and how. Times are monotonic seconds."""

    _held: dict[Sufferer, Word] = field(default_factory=dict[Sufferer, Word])

    def note(self, plight: Plight, *, at: float) -> bool:
        """Take one word, and say whether it is news."""
        sufferer = (plight.workload, plight.port)
        was_held = sufferer in self._held
        if plight.is_well:
            self._held.pop(sufferer, None)
        else:
            self._held[sufferer] = Word(plight.cause, at)
        return was_held is plight.is_well

    def keep_only(self, workloads: Container[Name], *, now: float) -> None:
        """Forget instances that are gone, and what was not said again."""
        held = self._held.items()
        self._held = {each: word for each, word in held if each[0] in workloads and now - word.at <= HELD}

    def by_port(self, mesh: Mesh, ports: Iterable[PortRef]) -> Mapping[PortRef, Mapping[str, str]]:
        """The instances of each port of a Service that suffer, each with a clause that says how."""
        found: dict[PortRef, dict[str, str]] = {}
        for port in ports if self._held else ():
            for (name, number), word in self._held.items():
                if name.namespace == port.namespace and _is_served(mesh, port, name, number):
                    found.setdefault(port, {})[str(name)] = f"it fails whatever it is asked ({word.cause})"
        return found

    def __len__(self) -> int:
        return len(self._held)


def _is_served(mesh: Mesh, port: PortRef, name: Name, number: int) -> bool:
    """Whether calls to a Service's port reach this port of the application."""
    service, workload = mesh.services.get(port.owner), mesh.workloads.get(name)
    if service is None or workload is None or not service.spec.selector:
        return False
    if not matches(service.spec.selector, workload.metadata.labels):
        return False
    targets = (each.target for each in service.spec.ports if each.port == port.port)
    return any(
        found is not None and found.port == number
        for target in targets
        for found in (application_port(workload, target),)
    )
