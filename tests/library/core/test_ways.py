"""What a gateway between zones is asked, and which of its answers is a consent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.library.core.ways import Consent, Way, WayError, request

WAY = Way("10.0.0.9:15008", ("spiffe://mesh.local/ns/masche-system/sa/east-west",))
AGREED = b"HTTP/1.1 200 OK\r\ndate: today\r\n\r\n"


def test_a_gateway_is_asked_for_one_address() -> None:
    assert request("10.0.0.1:8443") == b"CONNECT 10.0.0.1:8443 HTTP/1.1\r\nHost: 10.0.0.1:8443\r\n\r\n"
    assert Way("[fd00::1]:15008", ()).address == ("fd00::1", 15008)


@given(st.lists(st.integers(1, len(AGREED) - 1), unique=True).map(sorted))
def test_a_consent_may_come_in_pieces(cuts: list[int]) -> None:
    consent = Consent(WAY, "10.0.0.1:8443")
    pieces = [AGREED[start:end] for start, end in zip([0, *cuts], [*cuts, len(AGREED)], strict=True)]
    assert [consent.read(piece) for piece in pieces] == [False] * len(cuts) + [True]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "answered 100"),
        (AGREED + b"!", "spoke before it was spoken to"),
        (b"SSH-2.0\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1\r\n\r\n", "no HTTP"),
        (b"x" * 20_000, "no HTTP"),
    ],
)
def test_all_else_is_a_refusal_that_says_who_does_not_lead_where(answer: bytes, why: str) -> None:
    with pytest.raises(WayError, match=f"10.0.0.9:15008 does not carry us to 10.0.0.1:8443: it .*{why}"):
        Consent(WAY, "10.0.0.1:8443").read(answer)


def test_an_end_before_the_consent_is_a_refusal() -> None:
    consent = Consent(WAY, "10.0.0.1:8443")
    assert not consent.read(AGREED[:5])
    with pytest.raises(WayError, match="closed the connection"):
        consent.read(b"")
