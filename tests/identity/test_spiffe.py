"""SPIFFE IDs: what is valid, and every way in which a string is not."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.identity.spiffe import ControlPlane, Machine, SpiffeError, SpiffeId, WorkloadIdentity

INVALID = [
    "",
    "spiffe",
    "spiffe:",
    "spiffe:/",
    "spiffe://",
    "spiffe:///path",
    "spiffe:td/path",
    "spiffe:/td/path",
    "SPIFFE://td/path",
    "Spiffe://td/path",
    "http://td/path",
    "xspiffe://td/path",
    " spiffe://td/path",
    "spiffe://td/path ",
    "spiffe://td/path\n",
    "\tspiffe://td/path",
    "spiffe://TD/path",
    "spiffe://tD/path",
    "spiffe://t d/path",
    "spiffe://td:8080/path",
    "spiffe://td:/path",
    "spiffe://user@td/path",
    "spiffe://user:pass@td/path",
    "spiffe://@td/path",
    "spiffe://[::1]/path",
    "spiffe://t%64/path",
    "spiffe://tü/path",
    "spiffe://td*/path",
    "spiffe://*.td/path",
    "spiffe://td?q/path",
    "spiffe://td#f",
    "spiffe://td/",
    "spiffe://td//path",
    "spiffe://td/path/",
    "spiffe://td/a//b",
    "spiffe://td/.",
    "spiffe://td/..",
    "spiffe://td/./path",
    "spiffe://td/../path",
    "spiffe://td/a/./b",
    "spiffe://td/a/../b",
    "spiffe://td/path?query",
    "spiffe://td/path?",
    "spiffe://td/path#fragment",
    "spiffe://td/path#",
    "spiffe://td/p%61th",
    "spiffe://td/%2e%2e/path",
    "spiffe://td/a%2Fb",
    "spiffe://td/a b",
    "spiffe://td/a\x00b",
    "spiffe://td\x00/path",
    "spiffe://td/ä",
    "spiffe://td/ns/*/sa/web",
    "spiffe://td/a:b",
    "spiffe://td/a;b",
    "spiffe://td/a\\b",
    "spiffe://td/a|b",
    "spiffe://td/a@b",
    "spiffe://" + "a" * 256,
    "spiffe://td/" + "a" * 2037,
]


@pytest.mark.parametrize("text", INVALID, ids=ascii)
def test_an_invalid_string_is_refused(text: str) -> None:
    with pytest.raises(SpiffeError):
        SpiffeId.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://td",
        "spiffe://td/path",
        "spiffe://a.b-c_d.1/Path/with-CAPS_and.dots",
        "spiffe://td/...",
        "spiffe://td/.a/a./..b",
        "spiffe://" + "a" * 255,
        "spiffe://td/" + "a" * 2036,
        "spiffe://1.2.3.4/path",
    ],
)
def test_a_valid_string_reads_and_writes_back(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@given(st.text(max_size=60))
def test_no_string_reads_as_something_else(text: str) -> None:
    for candidate in (text, f"spiffe://{text}", f"spiffe://td/{text}"):
        try:
            found = SpiffeId.parse(candidate)
        except SpiffeError:
            continue
        assert str(found) == candidate


def test_every_ascii_character_is_judged_as_the_specification_says() -> None:
    for code in range(256):
        character = chr(code)
        for text, allowed in (
            (f"spiffe://t{character}d/p", string.ascii_lowercase + string.digits + ".-_/"),
            (f"spiffe://td/p{character}p", string.ascii_letters + string.digits + ".-_/"),
        ):
            if character in allowed:
                SpiffeId.parse(text)
            else:
                with pytest.raises(SpiffeError):
                    SpiffeId.parse(text)


def test_the_three_forms_are_told_apart() -> None:
    assert SpiffeId.of_workload("td", "shop", "web").role == WorkloadIdentity("shop", "web")
    assert SpiffeId.of_machine("td", "m1").role == Machine("m1")
    assert SpiffeId.of_control_plane("td").role == ControlPlane()
    for other in ("", "/ns/shop", "/ns/shop/sa/web/x", "/machine", "/control-plane/x", "/NS/shop/sa/web"):
        assert SpiffeId("td", other).role is None


@pytest.mark.parametrize("name", ["", "a/b", "../b", ".", "..", "a%2fb", "a b", "x" * 254, "a\x00", "a/sa/b"])
def test_a_name_can_not_open_another_segment(name: str) -> None:
    with pytest.raises(SpiffeError):
        SpiffeId.of_workload("td", name, "web")
    with pytest.raises(SpiffeError):
        SpiffeId.of_workload("td", "shop", name)
    with pytest.raises(SpiffeError):
        SpiffeId.of_machine("td", name)


def test_a_trust_domain_that_begins_like_another_is_another() -> None:
    assert SpiffeId.parse("spiffe://mesh.local.evil/ns/a/sa/b").trust_domain != "mesh.local"
    assert SpiffeId.parse("spiffe://mesh.local/ns/a/sa/b") != SpiffeId.parse("spiffe://mesh.loca/l/ns/a/sa/b")
