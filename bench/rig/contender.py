"""What takes part in a benchmark: something between callers and servers."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rig.load import Call, Caller, Plan


class Contender(Protocol):
    """``urls`` is where callers call, one per caller; ``start`` and ``close`` are called once each."""

    name: str

    @property
    def urls(self) -> list[str]: ...

    def start(self, backends: Mapping[str, int]) -> None: ...

    def close(self) -> None: ...


class Calls(Protocol):
    """The calls of a plan, under way since ``started_at`` (Unix seconds)."""

    started_at: float

    def wait(self) -> list[Call]: ...


def begin(contender: object, plan: Plan) -> Calls:
    """Begin to call: by the compiled caller, or as a contender calls that is in the callers' own processes."""
    made: Callable[[Plan], Any] = getattr(contender, "call", Caller)
    return made(plan)


class Several:
    """One balancer per caller, as in a mesh."""

    def __init__(self, make: Callable[[], Contender], count: int) -> None:
        self._each = [make() for _ in range(count)]
        self.name = self._each[0].name

    @property
    def urls(self) -> list[str]:
        return [url for each in self._each for url in each.urls]

    def start(self, backends: Mapping[str, int]) -> None:
        for each in self._each:
            each.start(backends)

    def close(self) -> None:
        for each in self._each:
            each.close()
