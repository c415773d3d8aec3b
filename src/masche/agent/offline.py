"""What an Envoy is told while no control plane is connected: what it lacks, from its last good configuration.

What it already holds is left exactly as it is, and nothing is ever removed, so that losing the control plane can not
change a running proxy. Pure but for reading the files of LastGood.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from masche.agent.last_good import LastGood
from masche.wire.discovery import DeltaRequest, Framed, encode_delta_response
from masche.wire.types import CLUSTER, LISTENER

Wants = Callable[[str, str], bool]

WILDCARDS = (CLUSTER, LISTENER)
"""The types that Envoy asks for as a whole, by naming nothing in its first request."""


@dataclass(slots=True)
class _Held:
    """What the Envoy behind one stream is known to hold of one type, name to version."""

    versions: dict[str, str] = field(default_factory=dict[str, str])


class Offline:
    """Answers the requests of one Envoy stream.

    ``wants`` says of a type and a name whether a proxy that serves several workloads is to have it now: some are here.
    """

    def __init__(self, last_good: LastGood, wants: Wants | None = None) -> None:
        self._last_good = last_good
        self._wants = wants
        self._held: dict[str, _Held] = {}
        self._nonce = 0

    def answer(self, request: DeltaRequest) -> bytes | None:
        """The response to one request, or None when there is nothing to tell (acknowledgements among them)."""
        is_first = request.type_url not in self._held
        held = self._held.setdefault(request.type_url, _Held())
        held.versions.update(request.initial_versions)
        for name in request.unsubscribe:
            held.versions.pop(name, None)
        lacking = [one for one in self._wanted(request, is_first=is_first) if one.name not in held.versions]
        if not lacking:
            return None
        held.versions.update((one.name, one.version) for one in lacking)
        self._nonce += 1
        nonce = f"last-good-{self._nonce}"
        return encode_delta_response(request.type_url, nonce, [one.frame for one in lacking])

    def _wanted(self, request: DeltaRequest, *, is_first: bool) -> tuple[Framed, ...]:
        """A first request of a wildcard type that names nothing (or ``*``) asks for everything, as xDS defines it.

        An Envoy that already holds some of a wildcard type keeps exactly that: its set is complete, ours may be older.
        One that serves several workloads is given what those need who came since.
        """
        if is_first and request.type_url in WILDCARDS and request.subscribe in {(), ("*",)}:
            if wants := self._wants:
                every = self._last_good.every(request.type_url)
                return tuple(one for one in every if wants(request.type_url, one.name))
            return () if request.initial_versions else self._last_good.every(request.type_url)
        return self._last_good.named(request.type_url, request.subscribe)
