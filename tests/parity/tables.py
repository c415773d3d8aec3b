"""Tables of routes by chance, the same for the same seed, with a request that often meets them."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from masche.model.refs import PortRef
from masche.model.view import (
    Backend,
    Forward,
    HeaderChange,
    PathKind,
    PathRewrite,
    Redirect,
    Refuse,
    RequestMatch,
    RewriteKind,
    Route,
    ValueKind,
    ValueMatch,
)
from masche.traffic.normalise import normalise
from masche.traffic.request import Request, lower_names
from masche.traffic.verdict import Verdict
from parity.requests import HOSTS, request

ORDERS, STOCK = PortRef("shop", "orders", 80), PortRef("shop", "stock", 80)
PATHS = ["/", "/a", "/b", "/a/", "/a/b", "/A", "/a.b", "/a/b/", "/ab"]
EXPRESSIONS = [
    *(
        "/a.*",
        "/[ab]",
        "/a/(b|c)",
        ".*b",
        "/",
        "/a/?",
        "/(?i)A",
        r"/\w+/b",
        "/[[:alpha:]]*",
        "/a{1,2}.*",
        "/(a|ab)(c|bcd)?",
    ),
    *(
        "(?s).*",
        r"/[^/]+/[^/]+",
        r"/\Qa.b\E",
        "/a|/b",
        "^/a$",
        "/[a-c&&b]+",
        r"/a\b.*",
        "/.*?/b",
        r"/[\w.]+",
        r"/\x61.*",
    ),
]
VALUE_EXPRESSIONS = [
    "o.*",
    "one|two",
    "[a-z]+",
    ".+",
    ".*",
    "(?i)ONE",
    r"one\stwo|one",
    "on?e?",
    r"[^,]*",
    r"\S+",
    "[[:^alpha:]]*",
    "[[:^space:][:punct:]]+",
]
VALUES = ["one", "two", "", "one,two", "One", "o", "one two", "é"]
NEW_VALUES = ["new", "", "a%b", "%REQ(host)%", "one, two", "é", "x=%20"]
NAMES = ["x-a", "x-b", "x-new", "x-more", "user-agent", "accept"]
PREFIXES = ["/", "/new", "/new/", "/a/b", "/new/path", "/n%20w", "/new\\1"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A table and a request; ``is_absolute``: it names the whole URL, as to a proxy."""

    routes: tuple[Route, ...]
    request: Request
    is_absolute: bool


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield so many cases."""
    rng = Random(seed)
    for number in range(count):
        asked = request(rng)
        writer = _Writer(rng, asked)
        routes = tuple(writer.route(f"{number}/{index}") for index in range(rng.choice((1, 2, 2, 3, 3, 4))))
        yield Case(
            routes=routes,
            request=asked,
            is_absolute=asked.authority in HOSTS and asked.target[:1] == "/" and rng.random() < 0.5,
        )


class _Writer:
    """Writes routes for one request."""

    def __init__(self, rng: Random, asked: Request) -> None:
        self._rng, self._asked = rng, asked
        found = normalise(asked.target)
        self._path, _, query = ("/a", "", "") if isinstance(found, Verdict) else found.partition("?")
        self._query = [part.partition("=")[::2] for part in query.split("&")]

    def route(self, name: str) -> Route:
        rng = self._rng
        kind = rng.choice(("forward",) * 7 + ("redirect",) * 3 + ("refuse",))
        action = {"forward": self._forward, "redirect": self._redirect, "refuse": self._refuse}[kind]()
        changes = self._change() if rng.random() < 0.4 else HeaderChange()
        return Route(
            name=name,
            match=self._match(),
            action=action,
            request_headers=changes,
            response_headers=HeaderChange(set=(("x-rule", name),), add=self._pairs("x-got", 1), remove=("x-echo",)),
        )

    # -- what it matches ------------------------------------------------------------------------------------------

    def _match(self) -> RequestMatch:
        rng = self._rng
        kind, path = self._path_match()
        return RequestMatch(
            path_kind=kind,
            path=path,
            method=rng.choice(("", "", "", "", self._asked.method, "GET")) if self._asked.method.isupper() else "",
            headers=self._headers() if rng.random() < 0.35 else (),
            query=self._parameters() if rng.random() < 0.25 else (),
        )

    def _path_match(self) -> tuple[PathKind, str]:
        rng, path = self._rng, self._path
        kind = rng.choice((PathKind.EXACT, PathKind.PREFIX, PathKind.PREFIX, PathKind.REGEX))
        if kind is PathKind.REGEX:
            return kind, rng.choice(EXPRESSIONS)
        if rng.random() < 0.3:
            return kind, rng.choice(PATHS)
        ends = [index for index, sign in enumerate(path) if sign == "/" and index] + [len(path)]
        part = path if kind is PathKind.EXACT else path[: rng.choice(ends)]
        shapes = (part, part, part, f"{part}/", part.rstrip("/") or "/", part[:-1] or "/", part.swapcase())
        return kind, rng.choice(shapes)

    def _headers(self) -> tuple[ValueMatch, ...]:
        rng = self._rng
        told = [*lower_names(self._asked.headers), ("x-a", "one"), ("host", self._asked.authority)]
        told = [
            each
            for each in told
            if each[1].isprintable() and not each[0].startswith(("x-forwarded-", "x-request", "x-envoy-", "x-masche-"))
        ]
        found = dict(rng.choice(told) for _ in range(rng.choice((1, 1, 2))))
        return tuple(self._value(name, value.strip()) for name, value in sorted(found.items()))

    def _parameters(self) -> tuple[ValueMatch, ...]:
        rng = self._rng
        told = [each for each in self._query if each[0] and each[0].isprintable()] or [("x", "one")]
        found = dict(rng.choice((*told, ("x", "one"))) for _ in range(rng.choice((1, 1, 2))))
        return tuple(self._value(name, value) for name, value in sorted(found.items()))

    def _value(self, name: str, value: str) -> ValueMatch:
        rng = self._rng
        if rng.random() < 0.35:
            expression = rng.choice(VALUE_EXPRESSIONS)
            return ValueMatch(name=name, kind=ValueKind.REGEX, value=expression)
        return ValueMatch(name=name, kind=ValueKind.EXACT, value=value if rng.random() < 0.8 else rng.choice(VALUES))

    # -- what it does ---------------------------------------------------------------------------------------------

    def _forward(self) -> Forward:
        rng = self._rng
        count = rng.choice((1, 1, 1, 1, 2, 3))
        return Forward(
            backends=tuple(self._backend(count) for _ in range(count)),
            host_rewrite=rng.choice(("", "", "", "other.example")),
            path_rewrite=self._rewrite() if rng.random() < 0.4 else None,
        )

    def _backend(self, count: int) -> Backend:
        rng = self._rng
        is_odd = rng.random() < 0.3
        return Backend(
            cluster=rng.choice((ORDERS, ORDERS, STOCK, STOCK, None if rng.random() < 0.3 else ORDERS)),
            weight=1 if count == 1 and rng.random() < 0.9 else rng.choice((0, 1, 1, 2)),
            request_headers=self._change() if is_odd else HeaderChange(),
            response_headers=HeaderChange(add=self._pairs("x-got", 2)) if is_odd else HeaderChange(),
            host_rewrite=rng.choice(("", "", "backend.example")) if is_odd else "",
            path_rewrite=self._rewrite() if rng.random() < 0.15 else None,
            redirect=self._redirect() if rng.random() < 0.05 else None,
        )

    def _redirect(self) -> Redirect:
        rng = self._rng
        scheme = rng.choice(("", "", "http", "https"))
        return Redirect(
            status=rng.choice((301, 302, 303, 307, 308)),
            scheme=scheme,
            host=rng.choice(("", "", "other.example")),
            port=rng.choice((0, 0, 0, 80, 443, 8080)),
            path=self._rewrite() if rng.random() < 0.4 else None,
        )

    def _refuse(self) -> Refuse:
        return Refuse(status=self._rng.choice((400, 404, 500)), why="it is wrong")

    def _rewrite(self) -> PathRewrite:
        return PathRewrite(kind=self._rng.choice(tuple(RewriteKind)[:2]), value=self._rng.choice(PREFIXES))

    def _change(self) -> HeaderChange:
        rng = self._rng
        names = rng.sample(NAMES, 3)
        return HeaderChange(
            set=((names[0], rng.choice(NEW_VALUES)),) if rng.random() < 0.5 else (),
            add=self._pairs(names[1], rng.choice((0, 1, 2))),
            remove=(names[2],) if rng.random() < 0.4 else (),
        )

    def _pairs(self, name: str, most: int) -> tuple[tuple[str, str], ...]:
        return tuple((name, self._rng.choice(NEW_VALUES)) for _ in range(self._rng.randint(0, most)))
