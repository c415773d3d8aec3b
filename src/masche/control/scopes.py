"""What a workload may call, as its agent is told it: the ports that get an address on its machine, and their names.

Invariant: equal Vantages have the same tuple, made once for a View.
"""

from masche.control.compilation import Compilation
from masche.link.messages import ScopeService
from masche.model.vantage import Seat, Vantage
from masche.model.view import View

REMEMBERED = 4096
"""So many Vantages are remembered before all are forgotten."""


class Scopes:
    """Made of what is compiled now."""

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation
        self._made: dict[Vantage, tuple[View, tuple[ScopeService, ...]]] = {}

    def services(self, vantage: Vantage, seat: Seat) -> tuple[ScopeService, ...]:
        """What a workload is given local ports for: all that it may call, or of very much what it is given unasked."""
        every, given = self._every(vantage), self._compilation.given((vantage, seat))
        return every if given is None else tuple(each for each in every if each.port.owner in given)

    def _every(self, vantage: Vantage) -> tuple[ScopeService, ...]:
        view = self._compilation.view(vantage)
        made = self._made.get(vantage)
        if made is None or made[0] is not view:
            if len(self._made) >= REMEMBERED:
                self._made.clear()
            services = tuple(
                ScopeService(
                    port=each.service,
                    protocol=each.protocol,
                    name=each.service.service,
                    hosts=each.hosts,
                    addresses=each.addresses,
                )
                for each in view.outbound
            )
            made = self._made[vantage] = (view, services)
        return made[1]
