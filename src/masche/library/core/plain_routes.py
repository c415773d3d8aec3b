"""The usual request on the usual route: what ``router.route`` would decide, looked up instead of worked out.

A route that forwards to one cluster and changes nothing of a request does the same for every request that it takes.
So it is decided once, when its table becomes known, and again whenever something of that has changed. Invariant: this
comes to what ``router.route`` comes to, or to nothing; then that decides.
"""

from collections.abc import Callable
from dataclasses import replace

from masche.library.core.ports import Known
from masche.library.core.router import ADDED, Names, Send, Sent, is_plain_name, route
from masche.model.view import Forward, HeaderChange, PathKind, RequestMatch, Route, ValueMatch, VirtualHost
from masche.traffic.match import holds, is_prefix, value_holds
from masche.traffic.request import Request


class PlainRoutes:
    """The routes of one Known, each with what it always comes to, if it does."""

    __slots__ = ("_by_method", "_entries", "_looks_at_added", "known")

    def __init__(self, known: Known) -> None:
        self.known = known
        self._entries = [(each, _always(each, known)) for each in known.host.routes]
        self._by_method: dict[str, tuple[_Entry, ...]] = {}
        looked_at = {each.name for entry in known.host.routes for each in entry.match.headers}
        self._looks_at_added = not looked_at.isdisjoint(ADDED)

    def find(self, request: Request, names: Names) -> Send | None:
        """Return how a request goes that is plain itself, of whose headers ``router.plain`` gave the ``names``; None:
        let ``router.route`` decide.
        """
        if self._looks_at_added:
            return None
        entries = self._by_method.get(request.method)
        if entries is None:
            entries = self._by_method[request.method] = self._of(request.method)
        path = request.target.partition("?")[0]
        present = names.names
        for entry in entries:
            if not path.startswith(entry.begins) or (entry.takes is not None and not entry.takes(path)):
                continue
            if entry.is_bare:
                return entry.send
            if entry.wants is not None and entry.wants not in present:
                continue
            if entry.match.share is not None:
                return None
            if holds(entry.match, request):
                return entry.send
        return None

    def _of(self, method: str) -> "tuple[_Entry, ...]":
        """The routes that plain requests of this method can take. There are as many methods as ``edge.METHODS``."""
        return tuple(_Entry(each.match, send) for each, send in self._entries if _may_take(each.match, method))


def _may_take(match: RequestMatch, method: str) -> bool:
    """Can a plain request of this method match at all? One that wants a connection of another kind is not plain."""
    if match.method not in {"", method} or (match.path_kind is PathKind.CONNECT and method != "CONNECT"):
        return False
    wanted = _wants(match)
    if wanted is not None and not is_plain_name(wanted):
        return False
    return all(value_holds(each, (method,)) for each in match.headers if each.name == _METHOD)


_METHOD = ":method"


def _wants(match: RequestMatch) -> str | None:
    """A header without which a request cannot match."""
    plain = (each for each in match.headers if not each.is_inverted and not each.is_missing_empty)
    return next((each.name for each in plain if each.name != "host" and each.name[:1] != ":"), None)


class _Entry:
    """One route, for requests whose method it takes.

    ``begins``: how every path begins that it takes, which costs less to look at than ``takes``; that is None where any
    path will do, or ``match`` has to look at it. ``is_bare``: the path is all it matches; ``wants``: a header without
    which it cannot match.
    """

    __slots__ = ("begins", "is_bare", "match", "send", "takes", "wants")

    def __init__(self, match: RequestMatch, send: Send | None) -> None:
        rest: tuple[ValueMatch, ...] = tuple(each for each in match.headers if each.name != _METHOD)
        self.match = replace(match, method="", headers=rest)
        self.takes = _path_test(match)
        self.begins = "" if self.takes is None else match.path.rstrip("/")
        is_simple = match.path_kind in _SIMPLE and not match.path_ignores_case
        self.is_bare = is_simple and self.match == RequestMatch(path_kind=match.path_kind, path=match.path)
        self.wants = _wants(match)
        self.send = send


_SIMPLE = frozenset({PathKind.PREFIX, PathKind.EXACT, PathKind.STARTS})


def _path_test(match: RequestMatch) -> Callable[[str], bool] | None:
    """How a path is looked at that begins with a slash, as all do; None: it need not be, or not so simply."""
    wanted = match.path
    if match.path_ignores_case or match.path_kind not in _SIMPLE:
        return None
    if match.path_kind is PathKind.EXACT:
        return lambda path: path == wanted
    if wanted in {"", "/"}:
        return None
    if match.path_kind is PathKind.STARTS:
        return lambda path: path.startswith(wanted)
    return lambda path: is_prefix(wanted, path)


_ANY = Request(authority="any")


def _always(source: Route, known: Known) -> Send | None:
    """What a route does with every request that it takes; None when that depends on the request or on chance."""
    action = source.action
    if not isinstance(action, Forward) or source.cors is not None or not _is_idle(source.request_headers):
        return None
    if action.retry is None or not action.retry.any_method or action.path_rewrite or action.host_rewrite:
        return None
    backends = [each for each in action.backends if each.weight > 0]
    if len(backends) != 1 or action.mirrors or backends[0].mirrors:
        return None
    backend = backends[0]
    if backend.path_rewrite or backend.host_rewrite or not _is_idle(backend.request_headers):
        return None
    found = route(Known(host=_alone(source), destinations=known.destinations, endpoints={}), _ANY, rng=_Never())
    return found.send if isinstance(found, Sent) else None


def _is_idle(change: HeaderChange) -> bool:
    """Does it leave every plain request as it is? What it removes is what such a request never has."""
    is_removal = replace(change, remove=()).is_empty
    return is_removal and not any(is_plain_name(name) or name in ADDED for name in change.remove)


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
