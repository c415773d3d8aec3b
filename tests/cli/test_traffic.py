"""Tables of traffic in narrow terminals: what says least goes first, and names stay whole."""

import pytest

from masche.api.traffic import Edge, Edges, Rate
from masche.cli.traffic import edges, narrowed

RATE = Rate(requests_per_second=12.5, success=1.0, p50_ms=1.2, p95_ms=3.4, p99_ms=5.6)
TABLE = edges(
    Edges(
        at=0.0,
        window=5.0,
        edges=(Edge(source="shop/web", destination="shop/orders", port=80, protocol="http", rate=RATE),),
    )
)


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (200, set[str]()),
        (80, {"p95 ms", "port"}),
        (60, {"p95 ms", "port", "transport", "p50 ms"}),
    ],
)
def test_a_narrow_terminal_is_shown_less_and_nothing_in_pieces(width: int, left_out: set[str]) -> None:
    shown = narrowed(TABLE, width)
    assert set(TABLE.headings) - set(shown.headings) == left_out
    assert [len(row) for row in shown.rows] == [len(shown.headings)]
    assert shown.rows[0][:2] == ("shop/web", "shop/orders")


def test_what_cannot_be_left_out_stays() -> None:
    assert narrowed(TABLE, 10).headings == ("from", "to", "req/s", "success", "p99 ms")


def test_nothing_fits_everywhere() -> None:
    assert narrowed(edges(Edges(at=0.0, window=5.0, edges=())), 10).rows == ()
