"""What the route that was matched does to a request: send it changed to one of its backends, or answer it at once.

Pure decisions; the caller sends. Changes are made in Envoy's order: the backend's headers before the route's, removals
before additions. Invariant: every request that matched gets one Sending or one Answer, and the query is never lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, assert_never

from masche.model.refs import PortRef
from masche.model.view import (
    Backend,
    Forward,
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
from masche.traffic.request import Headers, Request

_WELL_KNOWN = {"http": 80, "https": 443}


class Chance(Protocol):
    """Where chance comes from: ``random.Random`` is one."""

    def random(self) -> float:
        """Return a number from 0.0 (included) to 1.0 (excluded)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """Send ``request`` to ``cluster``, and copies to ``mirrors``. Times in seconds, 0 for none."""

    cluster: PortRef
    request: Request
    response_changes: tuple[HeaderChange, ...]
    mirrors: tuple[PortRef, ...]
    timeout: float
    per_try_timeout: float
    retry: Retry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer at once; ``location`` is set for redirects."""

    status: int
    location: str = ""
    why: str = ""


def decide(route: Route, request: Request, *, rng: Chance) -> Sending | Answer:
    """Carry out the route's action."""
    action = route.action
    match action:
        case Forward():
            return _forward(route, action, request, rng)
        case Redirect():
            return Answer(status=action.status, location=location(action, route.match, request))
        case Refuse():
            return Answer(status=action.status, why=action.why)
        case _:
            assert_never(action)


def _forward(route: Route, action: Forward, request: Request, rng: Chance) -> Sending | Answer:
    backend = choose(action.backends, rng=rng)
    if backend is None or backend.cluster is None:
        return Answer(status=500, why="the backend that was chosen cannot be resolved")
    if backend.redirect:
        return Answer(status=backend.redirect.status, location=location(backend.redirect, route.match, request))
    rewrite = backend.path_rewrite or action.path_rewrite
    changed = Request(
        method=request.method,
        target=rewritten(rewrite, route.match, request.target) if rewrite else request.target,
        authority=backend.host_rewrite or action.host_rewrite or request.authority,
        scheme=request.scheme,
        headers=apply(route.request_headers, apply(backend.request_headers, request.headers)),
        connection=request.connection,
    )
    return Sending(
        cluster=backend.cluster,
        request=changed,
        response_changes=(backend.response_headers, route.response_headers),
        mirrors=tuple(mirrored((*action.mirrors, *backend.mirrors), rng=rng)),
        timeout=action.timeout,
        per_try_timeout=action.per_try_timeout,
        retry=action.retry,
    )


def choose(backends: Iterable[Backend], *, rng: Chance) -> Backend | None:
    """Choose by weight; a weight of 0 is never chosen, and None is returned when there is nothing to choose from."""
    candidates = [backend for backend in backends if backend.weight > 0]
    drawn = rng.random() * sum(backend.weight for backend in candidates)
    for backend in candidates:
        drawn -= backend.weight
        if drawn < 0:
            return backend
    return candidates[-1] if candidates else None


def mirrored(mirrors: Iterable[Mirror], *, rng: Chance) -> Iterable[PortRef]:
    """Return who gets a copy; each mirror draws for itself."""
    return [each.cluster for each in mirrors if rng.random() * each.denominator < each.numerator]


def apply(change: HeaderChange, headers: Headers) -> Headers:
    """Return the headers with removals, then replacements, then additions."""
    replaced = {name for name, _ in change.set}
    gone = replaced | set(change.remove)
    return (*(each for each in headers if each[0] not in gone), *change.set, *change.add)


def rewritten(rewrite: PathRewrite, match: RequestMatch, target: str) -> str:
    """Return the path with its query after the rewrite.

    "ReplacePrefixMatch: Note that this matches the behavior of the PathPrefix match type": whole segments, trailing
    slashes of both prefixes ignored, and a path never becomes empty. Where no prefix was matched the path stays.
    """
    path, mark, query = target.partition("?")
    return _new_path(rewrite, match, path) + mark + query


def _new_path(rewrite: PathRewrite, match: RequestMatch, path: str) -> str:
    if rewrite.kind is RewriteKind.FULL:
        return rewrite.value
    if match.path_kind is not PathKind.PREFIX:
        return path
    rest = path[len(match.path.rstrip("/")) :]
    stem = rewrite.value.rstrip("/")
    return stem + rest if stem else "/" + rest.lstrip("/")


def location(redirect: Redirect, match: RequestMatch, request: Request) -> str:
    """Return the Location of a redirect; what the redirect does not say is as the request had it.

    "If redirect scheme is not-empty, the redirect port MUST be the well-known port associated with the redirect
    scheme"; the well-known port of the resulting scheme is not written, unless the request itself wrote it.
    """
    scheme = redirect.scheme or request.scheme
    target = rewritten(redirect.path, match, request.target) if redirect.path else request.target
    if not (redirect.host or redirect.scheme or redirect.port):
        return f"{scheme}://{request.authority}{target}"
    host = redirect.host or _host(request.authority)
    written = "" if redirect.port in {0, _WELL_KNOWN.get(scheme, 0)} else f":{redirect.port}"
    return f"{scheme}://{host}{written}{target}"


def _host(authority: str) -> str:
    """Return the authority without its port."""
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdecimal() and not host.endswith(":") else authority
