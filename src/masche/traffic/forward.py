"""What the route that was matched does to a request: send it changed to one of its backends, or answer it at once.

Pure decisions; the caller sends. Changes are made in Envoy's order: the backend's headers before the route's, removals
before additions. One number is drawn for each request, and the route, its backend and who gets a copy all follow from
it, as in Envoy. Invariant: every request that matched gets one Sending or one Answer, and the query is never lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, assert_never

from masche.model.expressions import replace_all
from masche.model.frozen import frozen
from masche.model.refs import PortRef
from masche.model.view import (
    Backend,
    Fault,
    Forward,
    Hashed,
    HeaderChange,
    Mirror,
    PathKind,
    PathRewrite,
    Redirect,
    Refuse,
    RequestMatch,
    Retry,
    RewriteKind,
    Route,
)
from masche.traffic.match import match
from masche.traffic.request import Headers, Request
from masche.traffic.times import times

_WELL_KNOWN = {"http": 80, "https": 443}


class Chance(Protocol):
    """Where chance comes from: ``random.Random`` is one."""

    def random(self) -> float:
        """Return a number from 0.0 (included) to 1.0 (excluded)."""
        ...


@frozen
class Sending:
    """Send ``request`` to ``cluster``, and copies to ``mirrors``. Times in seconds, 0 for none.

    Times and ``retry`` (None: nothing is repeated) are those of this very request: what it is, a stream or something
    that may be repeated, has been considered. ``absent_status`` is the answer when there is no such cluster; ``rule``
    names the route.
    """

    cluster: PortRef
    request: Request
    response_changes: tuple[HeaderChange, ...]
    mirrors: tuple[PortRef, ...]
    timeout: float
    per_try_timeout: float
    retry: Retry | None
    idle_timeout: float = 0.0
    hedge_after: float = 0.0
    hashes: tuple[Hashed, ...] = ()
    absent_status: int = 503
    fault: Fault | None = None
    rule: str = ""


@frozen
class Answer:
    """Answer at once; ``location`` is set for redirects. ``rule`` names the route."""

    status: int
    location: str = ""
    why: str = ""
    response_changes: tuple[HeaderChange, ...] = ()
    rule: str = ""


def draw(rng: Chance) -> int:
    """Return the one number of a request, from which all that is left to chance in its routing follows."""
    return int(rng.random() * 2**53)


def routed(routes: Sequence[Route], request: Request, *, rng: Chance) -> Sending | Answer:
    """Take a request through a table: the first route that matches is carried out; without one the answer is 404."""
    drawn = draw(rng)
    route = match(routes, request, drawn=drawn)
    return decide(route, request, rng=rng, drawn=drawn) if route else Answer(status=404, why="no route matches")


def decide(route: Route, request: Request, *, rng: Chance, drawn: int | None = None) -> Sending | Answer:
    """Carry out the route's action. ``drawn`` is the number by which the route was found, drawn here when missing."""
    action = route.action
    match action:
        case Forward():
            return _forward(route, action, request, draw(rng) if drawn is None else drawn)
        case Redirect():
            return _answer(route, status=action.status, location=location(action, route.match, request))
        case Refuse():
            return _answer(route, status=action.status, location=_where(action, request), why=action.why)
        case _:
            assert_never(action)


def _where(action: Refuse, request: Request) -> str:
    """Envoy says with every answer of its own that sends elsewhere, or tells of something new, where that is: here."""
    is_elsewhere = action.status == 201 or 300 <= action.status < 400
    return f"{request.scheme}://{request.authority}{request.target}" if is_elsewhere else ""


def _answer(route: Route, *, status: int, location: str = "", why: str = "") -> Answer:
    return Answer(
        status=status, location=location, why=why, response_changes=(route.response_headers,), rule=route.name
    )


def _forward(route: Route, action: Forward, request: Request, drawn: int) -> Sending | Answer:
    backend = choose(action.backends, drawn=drawn)
    if backend is None:
        return _answer(route, status=action.lacking_status, why="no backend takes this request")
    if backend.cluster is None:
        lacking = _answer(route, status=action.lacking_status, why="the backend that was chosen cannot be resolved")
        return replace(lacking, response_changes=(backend.response_headers, *lacking.response_changes))
    if backend.redirect:
        where = location(backend.redirect, route.match, request)
        return _answer(route, status=backend.redirect.status, location=where)
    allowed = times(action, route.match.method, request)
    return Sending(
        cluster=backend.cluster,
        request=_changed(route, action, backend, request),
        response_changes=(backend.response_headers, route.response_headers),
        mirrors=tuple(mirrored((*action.mirrors, *backend.mirrors), drawn=drawn)),
        timeout=allowed.timeout,
        per_try_timeout=allowed.per_try,
        idle_timeout=allowed.idle,
        hedge_after=allowed.hedge_after,
        retry=allowed.retry,
        hashes=action.hashes,
        absent_status=action.absent_status,
        fault=route.fault,
        rule=route.name,
    )


def _changed(route: Route, action: Forward, backend: Backend, request: Request) -> Request:
    rewrite = backend.path_rewrite or action.path_rewrite
    return replace(
        request,
        target=rewritten(rewrite, route.match, request.target) if rewrite else request.target,
        authority=backend.host_rewrite or action.host_rewrite or request.authority,
        headers=apply(route.request_headers, apply(backend.request_headers, request.headers)),
    )


def choose(backends: Iterable[Backend], *, drawn: int) -> Backend | None:
    """Choose by weight; a weight of 0 is never chosen, and None is returned when there is nothing to choose from."""
    candidates = [backend for backend in backends if backend.weight > 0]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    left = drawn % sum(backend.weight for backend in candidates)
    for backend in candidates:
        left -= backend.weight
        if left < 0:
            return backend
    return candidates[-1]


def mirrored(mirrors: Iterable[Mirror], *, drawn: int) -> Iterable[PortRef]:
    """Return who gets a copy."""
    return [each.cluster for each in mirrors if drawn % each.denominator < each.numerator]


def apply(change: HeaderChange, headers: Headers) -> Headers:
    """Return the headers with removals, then replacements, then additions."""
    if change.is_empty:
        return headers
    replaced = (*change.set, *_where_present(change.set_present, headers))
    gone = {name for name, _ in replaced} | set(change.remove)
    kept = tuple(each for each in headers if each[0] not in gone)
    absent = [each for each in change.set_absent if not any(name == each[0] for name, _ in (*kept, *replaced))]
    return (*kept, *replaced, *absent, *change.add)


def _where_present(changes: Headers, headers: Headers) -> Headers:
    return tuple(each for each in changes if any(name == each[0] for name, _ in headers)) if changes else ()


def rewritten(rewrite: PathRewrite, match: RequestMatch, target: str) -> str:
    """Return the path with its query after the rewrite.

    "ReplacePrefixMatch: Note that this matches the behavior of the PathPrefix match type": whole segments, trailing
    slashes of both prefixes ignored, and a path never becomes empty. Where no prefix was matched the path stays.
    """
    path, mark, query = target.partition("?")
    return _new_path(rewrite, match, path) + mark + query


def _new_path(rewrite: PathRewrite, match: RequestMatch, path: str) -> str:
    match rewrite.kind:
        case RewriteKind.FULL:
            return rewrite.value
        case RewriteKind.REGEX:
            return replace_all(rewrite.pattern, path, rewrite.value)
        case RewriteKind.MATCHED:
            return rewrite.value + ("" if match.path_kind is PathKind.REGEX else path[len(match.path) :])
        case RewriteKind.PREFIX:
            return _new_prefix(rewrite, match, path)
        case _:
            assert_never(rewrite.kind)


def _new_prefix(rewrite: PathRewrite, match: RequestMatch, path: str) -> str:
    if match.path_kind is not PathKind.PREFIX:
        return path
    rest = path[len(match.path.rstrip("/")) :]
    stem = rewrite.value.rstrip("/")
    return stem + rest if stem else "/" + rest.lstrip("/")


def location(redirect: Redirect, match: RequestMatch, request: Request) -> str:
    """Return the Location of a redirect; what the redirect does not say is as the request had it.

    "If redirect scheme is not-empty, the redirect port MUST be the well-known port associated with the redirect
    scheme". A port that is named, or follows from the scheme while the host stays, is written out, as Envoy does.
    """
    scheme = redirect.scheme or request.scheme
    target = _redirected(redirect, match, request.target)
    if not (redirect.host or redirect.scheme or redirect.port):
        return f"{scheme}://{request.authority}{target}"
    host = redirect.host or _kept(redirect, scheme, request)
    is_moved = not (redirect.host or redirect.keeps_port)
    port = redirect.port or (_WELL_KNOWN.get(redirect.scheme, 0) if is_moved else 0)
    return f"{scheme}://{host}{f':{port}' if port else ''}{target}"


def _redirected(redirect: Redirect, match: RequestMatch, target: str) -> str:
    """A path that brings a query of its own replaces the request's, too, and is not stripped."""
    rewrite = redirect.path
    if rewrite and rewrite.kind is RewriteKind.FULL and "?" in rewrite.value:
        return rewrite.value
    new = rewritten(rewrite, match, target) if rewrite else target
    return new.partition("?")[0] if redirect.strips_query else new


def _kept(redirect: Redirect, scheme: str, request: Request) -> str:
    """The host that was called, with its port only where that is to be kept and is not what the schemes make usual."""
    host = _host(request.authority)
    if not redirect.keeps_port or redirect.port:
        return host
    usual = f":{_WELL_KNOWN.get(request.scheme, 0)}"
    return host if scheme != request.scheme and request.authority == host + usual else request.authority


def _host(authority: str) -> str:
    """Return the authority without its port."""
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdecimal() and not host.endswith(":") else authority
