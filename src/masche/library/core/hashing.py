"""What a call sticks to an instance by: a hash of a header, a cookie, the query or the caller.

Pure. Several ingredients are mixed as Envoy mixes them (``HashPolicyImpl::generateHash``: rotate by one, exclusive or).
Invariant: calls with the same ingredients have the same key in every process.
"""

import re
from functools import lru_cache
from typing import assert_never

from masche.library.core.outcomes import value
from masche.model.calling import HashOn, Traffic
from masche.model.frozen import frozen
from masche.model.view import Hashed, HashKind, PathRewrite
from masche.traffic.chance import Chance
from masche.traffic.match import first_parameters
from masche.traffic.pickers.hashing import SPACE, key_of
from masche.traffic.request import Request


@frozen(kw_only=False)
class Sticking:
    """``key`` None: nothing of it was there, so chance decides. ``cookie`` is to be set, "" for none."""

    key: int | None = None
    cookie: str = ""


@lru_cache(maxsize=1024)
def asked(hash_on: HashOn | None, name: str) -> tuple[Hashed, ...]:
    """Return the ingredients that a TrafficPolicy asks for."""
    match hash_on:
        case None:
            return ()
        case HashOn.HEADER:
            return (Hashed(kind=HashKind.HEADER, name=name.lower()),)
        case HashOn.COOKIE:
            return (Hashed(kind=HashKind.COOKIE, name=name, lifetime=0),)
        case HashOn.SOURCE_IP:
            return (Hashed(kind=HashKind.CALLER),)
        case _:
            assert_never(hash_on)


def sticking(hashes: tuple[Hashed, ...], traffic: Traffic, request: Request, *, caller: str, rng: Chance) -> Sticking:
    """Return what a request sticks by: as the route says, else as the policy says."""
    key: int | None = None
    made = ""
    for each in hashes or asked(traffic.hash_on, traffic.hash_name):
        found = _found(each, request, caller)
        if found is None and each.kind is HashKind.COOKIE and each.lifetime is not None:
            found = f"{rng.getrandbits(64):016x}"
            made = _cookie(each, found)
        if found is not None:
            key = key_of(found) if key is None else (_rotated(key) ^ key_of(found))
            if each.is_last:
                break
    return Sticking(key, made)


def _found(hashed: Hashed, request: Request, caller: str) -> str | None:
    match hashed.kind:
        case HashKind.HEADER:
            values = request.values(hashed.name)
            return _rewritten(hashed.rewrite, ",".join(sorted(values))) if values else None
        case HashKind.COOKIE:
            return _cookies(value(request.headers, "cookie") or "").get(hashed.name)
        case HashKind.QUERY:
            return first_parameters(request.query).get(hashed.name)
        case HashKind.CALLER:
            return caller
        case _:
            assert_never(hashed.kind)


def _rewritten(rewrite: PathRewrite | None, text: str) -> str:
    return text if rewrite is None else re.sub(rewrite.pattern, rewrite.value, text, flags=re.ASCII)


def _cookies(header: str) -> dict[str, str]:
    """The cookies of a request; the first of a name counts."""
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, _, text = part.strip().partition("=")
        found.setdefault(name, text.strip('"'))
    return found


def _cookie(hashed: Hashed, text: str) -> str:
    """A cookie as Envoy makes it: without an age it lasts as long as the session."""
    age = f"; Max-Age={int(hashed.lifetime)}" if hashed.lifetime else ""
    path = f"; Path={hashed.path}" if hashed.path else ""
    return f'{hashed.name}="{text}"{age}{path}; HttpOnly'


def _rotated(key: int) -> int:
    return (key << 1) % SPACE | key >> 63
