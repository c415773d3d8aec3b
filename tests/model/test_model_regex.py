"""A regular expression is accepted when the proxy will accept it; otherwise what the proxy does not know is named."""

import pytest

from masche.model.regex import problem


@pytest.mark.parametrize(
    "pattern",
    [
        "/a.*",
        "[[]",
        "[a&&b]",
        "[]a]",
        "[^]a]",
        "[[:alpha:]]+",
        r"\d+\.\w",
        "(?i)x",
        "(?P<n>x)",
        r"\\1",
        r"[\[\]]",
        "(a*)*b",
        "a{1000}",
    ],
)
def test_what_re2_knows_is_accepted(pattern: str):
    assert problem(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?=a)", "lookaround"),
        ("(?<!a)b", "lookaround"),
        (r"(a)\1", "backreferences"),
        ("a++", "possessive"),
        ("(?x)a", "inline flags"),
        ("a{1001}", "at most 1000"),
        ("(a{100}){11}", "at most 1000"),
        ("(", "does not compile"),
        ("[a", "does not compile"),
        ("x" * 1025, "longer than 1024"),
    ],
)
def test_what_re2_does_not_know_is_named(pattern: str, why: str):
    assert why in problem(pattern)
