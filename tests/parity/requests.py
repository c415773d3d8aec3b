"""Requests by chance: paths, queries, hosts, methods and headers as no tidy client would write them."""

from random import Random

from masche.traffic.request import Request

METHODS = ["GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "PROPFIND"]
ODD_METHODS = ["get", "FOO", "Get", "LINK"]
HOSTS = [
    "orders",
    "orders",
    "orders.shop",
    "ORDERS",
    "Orders.Shop",
    "orders:80",
    "orders:8080",
    "orders.",
    "orders.:80",
]
ODD_HOSTS = ["other", "[::1]:80", "orders:", "or_ders", "user@orders", "orders..", "a b", "127.0.0.1", "*"]
PLAIN = ["a", "b", "c", "A", "a.b", "ab"]
ODD = [
    *("", ".", "..", "...", "%61", "%2e", "%2E%2e", "a;b", "..;x", ".;x", "a%", "%25", "%2f", "%5c", "\\", "a\\..\\b"),
    *("[x]", "{x}", "{*}", "a|b", "a^b", 'a"b', "<a>", "`", "~", "a+b", "a b", "%20", "%41b", "%%41b", "%7e", "%e9"),
    *("%C3%A9", "a*", "*", "a=b,c", "a@b:c", "!$&'()", "%00", "a%2", "%zz", "é", "-_", "%2B", "a#b", "%23", "%3F"),
]
QUERIES = [
    *(
        "",
        "",
        "",
        "",
        "?",
        "?x=one",
        "?x=one&x=two",
        "?x=%6fne",
        "?x",
        "?x=",
        "?q=/a/../b",
        "?q=//",
        "?&x=one&",
        "?x=a=b",
    ),
    *("?x=one?q=two", "?X=one", "?x=one#f", "?x=one%00", "?q=1&x=one", "?=one", "?x=one;q=1", "?x=+", "?x=é"),
]
NAMES = ["x-a", "x-a", "X-A", "x-b", "x-b"]
ODD_NAMES = [
    *(
        "user-agent",
        "authorization",
        "accept",
        "content-type",
        "cookie",
        "x-forwarded-for",
        "x-request-id",
        "x_a",
        "te",
    ),
    *("x-envoy-a", "x-masche-peer", "x-forwarded-host", "X.Y", "referer", "if-match", "via", "x-forwarded-client-cert"),
]
VALUES = ["one", "one", "two", "", "o", "one,two", "One", " one ", "one two", "on", "a\tb"]
ODD_VALUES = [
    "http://a/b?c",
    "http://a@b/",
    "/a#b",
    "a:b",
    "é",
    "\udce9",
    "ö,é",
    '"one"',
    "o.e",
    "\\one",
    "x" * 300,
    "one\x01",
    "%6fne",
]


def request(rng: Random) -> Request:
    """One request as it is sent."""
    return Request(
        method=rng.choice(METHODS if rng.random() < 0.97 else ODD_METHODS),
        target=target(rng),
        authority=rng.choice(HOSTS) if rng.random() < 0.95 else rng.choice(ODD_HOSTS),
        headers=tuple(header(rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))),
    )


def target(rng: Random) -> str:
    """A path with a query; one in a hundred is none."""
    if rng.random() < 0.01:
        return rng.choice(("*", "a", "?x=one", "//", "///a", "/a?b#c"))
    segments = [
        rng.choice(PLAIN) if rng.random() < 0.8 else rng.choice(ODD) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4)))
    ]
    return "/" + "/".join(segments) + ("/" if rng.random() < 0.1 else "") + rng.choice(QUERIES)


def header(rng: Random) -> tuple[str, str]:
    """One header; names repeat often."""
    name = rng.choice(NAMES) if rng.random() < 0.8 else rng.choice(ODD_NAMES)
    return name, rng.choice(VALUES) if rng.random() < 0.94 else rng.choice(ODD_VALUES)
