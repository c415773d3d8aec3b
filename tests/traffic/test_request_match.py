"""Which route a request takes."""

from hypothesis import given
from hypothesis import strategies as st

from masche.model.view import Forward, PathKind, RequestMatch, Route, ValueKind, ValueMatch
from masche.traffic.match import first_parameters, holds, is_prefix, match
from masche.traffic.request import Request

SEGMENTS = st.lists(st.text(alphabet="ab.-", max_size=3), max_size=4)
PATHS = SEGMENTS.map(lambda segments: "/" + "/".join(segments))


def a_route(name: str, wanted: RequestMatch) -> Route:
    return Route(name=name, match=wanted, action=Forward(backends=()))


def a_header(name: str, value: str, kind: ValueKind = ValueKind.EXACT) -> RequestMatch:
    return RequestMatch(headers=(ValueMatch(name=name, kind=kind, value=value),))


def a_parameter(name: str, value: str) -> RequestMatch:
    return RequestMatch(query=(ValueMatch(name=name, kind=ValueKind.EXACT, value=value),))


@given(PATHS, PATHS)
def test_a_prefix_matches_whole_segments(prefix: str, path: str):
    stem = prefix.rstrip("/").split("/")
    assert is_prefix(prefix, path) == (path.split("/")[: len(stem)] == stem)


@given(PATHS, st.text(alphabet="?&=#ab", max_size=6))
def test_a_query_never_changes_which_path_is_matched(path: str, query: str):
    wanted = RequestMatch(path_kind=PathKind.EXACT, path=path)
    assert holds(wanted, Request(target=f"{path}?{query}"))


@given(st.lists(PATHS, min_size=1, max_size=6), PATHS)
def test_the_first_route_that_holds_decides(prefixes: list[str], path: str):
    routes = [a_route(str(index), RequestMatch(path=prefix)) for index, prefix in enumerate(prefixes)]
    found = match(routes, Request(target=path))
    fitting = [str(index) for index, prefix in enumerate(prefixes) if is_prefix(prefix, path)]
    assert (found.name if found else None) == next(iter(fitting), None)


def test_a_regular_expression_matches_the_whole_path():
    wanted = RequestMatch(path_kind=PathKind.REGEX, path="/v[0-9]+")
    assert holds(wanted, Request(target="/v12?x"))
    assert not holds(wanted, Request(target="/v12/"))
    assert not holds(RequestMatch(path_kind=PathKind.REGEX, path="("), Request(target="/("))


def test_a_header_that_comes_several_times_matches_by_any_one_of_its_values():
    twice = Request(headers=(("x", "a"), ("y", ""), ("x", "b")))
    assert holds(a_header("x", "a"), twice)
    assert holds(a_header("x", "b"), twice)
    assert not holds(a_header("x", "a,b"), twice)
    assert holds(a_header("x", "b.*", ValueKind.REGEX), twice)
    assert holds(a_header("y", ""), twice)
    assert not holds(a_header("z", ""), twice)


def test_the_host_header_is_the_authority():
    assert holds(a_header("host", "orders:80"), Request(authority="orders:80", headers=(("host", "other"),)))


def test_only_the_first_value_of_a_parameter_counts_and_it_is_not_decoded():
    assert holds(a_parameter("a", "1"), Request(target="/?a=1&a=2"))
    assert not holds(a_parameter("a", "2"), Request(target="/?a=1&a=2"))
    assert not holds(a_parameter("a", " "), Request(target="/?a=%20"))
    assert not holds(a_parameter("A", "1"), Request(target="/?a=1"))
    assert holds(a_parameter("flag", ""), Request(target="/?flag"))


@given(st.lists(st.tuples(st.text(alphabet="abc", min_size=1), st.text(alphabet="xyz=")), max_size=5))
def test_parameters_are_read_in_order(pairs: list[tuple[str, str]]):
    query = "&".join(f"{name}={value}" for name, value in pairs)
    expected: dict[str, str] = {}
    for name, value in pairs:
        expected.setdefault(name, value)
    assert {name: value for name, value in first_parameters(query).items() if name} == expected


def test_methods_differ_by_case():
    assert holds(RequestMatch(method="GET"), Request(method="GET"))
    assert not holds(RequestMatch(method="GET"), Request(method="get"))
