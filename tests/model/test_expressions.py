"""Regular expressions in RE2's spelling, carried out by Python's engine."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model.automaton import automaton
from masche.model.expressions import ExpressionError, check, compiled, full_match, replace_all


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("a.*", "abc", "ba"),
        ("a$", "a", "a\n"),
        (r"a\z", "a", "ab"),
        (r"\s", "\t", "\v"),
        (r"\S", "\v", " "),
        ("[[:alpha:]]+", "aZ", "a1"),
        ("[^[:digit:]]", "a", "7"),
        ("[[:^digit:]x]", "b", "8"),
        (r"\Qa.b\E+", "a.b", "axb"),
        (r"\Qa.b", "a.b", "axb"),
        ("(?i)ab", "AB", "AC"),
        ("a(?i)b|c", "aB", "Ab"),
        ("a(?i)b|c", "C", "Ac"),
        ("(?i:a)b", "Ab", "AB"),
        ("(?P<x>a)(?<y>b)", "ab", "a"),
        ("[a&&b]", "&", "c"),
        ("[]a]", "]", "b"),
        ("[^]a]", "b", "]"),
        ("[a-]", "-", "b"),
        ("a{2,3}", "aaa", "a"),
        ("a{,3}", "a{,3}", "aa"),
        ("a{", "a{", "a"),
        (r"\x{41}", "A", "B"),
        ("a|b|", "", "c"),
        (r"[\]\d]", "]", "x"),
    ],
)
def test_an_expression_fits_what_re2_says(pattern: str, fits: str, does_not: str):
    assert full_match(pattern, fits)
    assert not full_match(pattern, does_not)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", "(?P=x)", "(?>a)", "a++", "a*+", "a**", "a{2}{3}+", "(?#c)",
        r"\pL", r"\C", r"\Z", r"\k<x>", "(", ")", "[a", "[[:nonsense:]]", "a{1001}", "(?a)b", "(?(1)a)", "*a", "\\",
        r"[\b]", "(?U)a",
    ],
)  # fmt: skip
def test_what_re2_does_not_know_or_python_does_otherwise_is_refused(pattern: str):
    with pytest.raises(ExpressionError):
        compiled(pattern)
    assert not full_match(pattern, "a")


@pytest.mark.parametrize(
    ("pattern", "text", "new", "result"),
    [
        ("^.*$", "/a/b", "/x", "/x"),
        ("a", "banana", "o", "bonono"),
        ("x*", "abxd", "-", "-a-b-d-"),
        ("(a)(b)?", "ab a", r"\2\1", "ba a"),
        ("a", "a", r"\\", "\\"),
        ("$", "ab", "!", "ab!"),
        ("b|$", "ab", "_", "a_"),
    ],
)
def test_every_match_is_replaced_as_re2_does(pattern: str, text: str, new: str, result: str):
    assert replace_all(pattern, text, new) == result


def test_a_substitution_that_refers_to_no_group_is_refused():
    with pytest.raises(ExpressionError, match="does not have"):
        check("(a)", r"\2")
    check("(a)", r"\1\\")


@given(
    st.text(alphabet="ab[]^-&|~\\()?:iPQE{},0123*+.$<>=!dswbz \n", max_size=14),
    st.text(alphabet="ab[&~1 \n", max_size=4),
)
def test_any_text_is_an_expression_or_refused(pattern: str, text: str):
    try:
        found = compiled(pattern)
    except ExpressionError:
        found = None
    assert full_match(pattern, text) == (found is not None and found.fullmatch(text) is not None)


SIGNS = st.sampled_from(["a", "b", "A", ".", "[ab]", "[^a]", r"\d", "(?i:a)", "^", "$", r"\S", "[^[:alpha:]]", "1"])
EXPRESSIONS = st.recursive(
    SIGNS,
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})")
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?"])).map(
            lambda two: f"({two[0]}){two[1]}"
        )
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.lists(st.text(alphabet="abA1\n ", max_size=6), min_size=1, max_size=5))
def test_the_automaton_says_what_pythons_engine_says(pattern: str, texts: list[str]):
    for text in texts:
        assert full_match(pattern, text) == (compiled(pattern).fullmatch(text) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*b", "(.*a){12}b", "(([a-z])+.)+[A-Z]([a-z])+$"])
def test_an_expression_over_which_engines_despair_takes_no_time(pattern: str):
    assert not full_match(pattern, "a" * 3_000)


def test_what_was_learnt_of_many_texts_is_bounded():
    made = automaton(compiled("(.*[abc].{9})?x").pattern)
    assert made is not None
    rng = Random(1)
    for _ in range(300):
        text = "".join(rng.choice("abcdefgh") for _ in range(60))
        assert made.fits(text) is False
        assert made.fits(text[:-10] + "a" + text[-9:] + "x") is True
    assert made.remembered <= 500


def test_repeats_that_come_to_too_much_are_refused():
    with pytest.raises(ExpressionError, match="too much"):
        check("((a{100}){100}){100}")
