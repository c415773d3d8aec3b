"""The usual request on the usual route: what ``router.route`` would decide, looked up instead of worked out.

A route that forwards to one cluster and changes nothing of a request does the same for every request that it takes.
So it is decided once, when its table becomes known, and again whenever something of that has changed. Invariant: this
comes to what ``router.route`` comes to, or to nothing; then that decides.
"""

from dataclasses import replace

from masche.library.core.ports import Known
from masche.library.core.router import ADDED, Send, Sent, route
from masche.model.view import Forward, PathKind, RequestMatch, Route, VirtualHost
from masche.traffic.match import holds
from masche.traffic.request import Request


class PlainRoutes:
    """The routes of one Known, each with what it always comes to, if it does."""

    __slots__ = ("_entries", "_looks_at_added", "known")

    def __init__(self, known: Known) -> None:
        self.known = known
        self._entries = [_Entry(each, known) for each in known.host.routes]
        looked_at = {each.name for entry in known.host.routes for each in entry.match.headers}
        self._looks_at_added = not looked_at.isdisjoint(ADDED)

    def find(self, request: Request) -> Send | None:
        """Return how a request goes that is plain itself; None: let ``router.route`` decide."""
        if self._looks_at_added:
            return None
        path, _, _ = request.target.partition("?")
        for entry in self._entries:
            stem = entry.stem
            if stem is not None:
                if entry.is_exact:
                    if path != stem:
                        continue
                elif stem and not (path.startswith(stem) and path[len(stem) : len(stem) + 1] in _ENDS):
                    continue
                if entry.is_bare:
                    return entry.send
            if entry.wants is not None and all(name != entry.wants for name, _ in request.headers):
                continue
            if entry.match.share is not None:
                return None
            if holds(entry.match, request):
                return entry.send
        return None


_ENDS = ("", "/")


class _Entry:
    """One route. ``stem``: of its path, None where that is not compared simply; ``is_bare``: that is all it matches;
    ``wants``: a header without which it cannot match.
    """

    __slots__ = ("is_bare", "is_exact", "match", "send", "stem", "wants")

    def __init__(self, source: Route, known: Known) -> None:
        self.match = match = source.match
        is_simple = match.path_kind in {PathKind.PREFIX, PathKind.EXACT} and not match.path_ignores_case
        self.is_exact = match.path_kind is PathKind.EXACT
        self.stem = (match.path if self.is_exact else match.path.rstrip("/")) if is_simple else None
        self.is_bare = match == RequestMatch(path_kind=match.path_kind, path=match.path)
        plain = (each for each in match.headers if not each.is_inverted and not each.is_missing_empty)
        self.wants = next((each.name for each in plain if each.name != "host" and each.name[:1] != ":"), None)
        self.send = _always(source, known)


_ANY = Request(authority="any")


def _always(source: Route, known: Known) -> Send | None:
    """What a route does with every request that it takes; None when that depends on the request or on chance."""
    action = source.action
    if not isinstance(action, Forward) or source.cors is not None or not source.request_headers.is_empty:
        return None
    if action.retry is None or not action.retry.any_method or action.path_rewrite or action.host_rewrite:
        return None
    backends = [each for each in action.backends if each.weight > 0]
    if len(backends) != 1 or action.mirrors or backends[0].mirrors:
        return None
    backend = backends[0]
    if backend.path_rewrite or backend.host_rewrite or not backend.request_headers.is_empty:
        return None
    found = route(Known(host=_alone(source), destinations=known.destinations, endpoints={}), _ANY, rng=_Never())
    return found.send if isinstance(found, Sent) else None


def _alone(source: Route) -> VirtualHost:
    """A table in which this route takes everything."""
    return VirtualHost(hosts=("any",), routes=(replace(source, match=RequestMatch()),))


class _Never:
    """Chance where there is none: it makes no difference here."""

    def random(self) -> float:
        """Always the same."""
        return 0.0

    def getrandbits(self, k: int, /) -> int:  # noqa: ARG002 - of the Protocol
        """Always the same."""
        return 0
