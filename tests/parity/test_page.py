"""What may differ between placements stands in the documentation, word for word, and nothing else does."""

from pathlib import Path

import pytest

from masche.testing.check_placement import REQUEST, RESPONSE, Meant

PAGE = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
TABLES = PAGE.split("| header | why |\n|---|---|\n")[1:]


@pytest.mark.parametrize(("table", "meant"), [(TABLES[0], REQUEST), (TABLES[1], RESPONSE)], ids=["request", "response"])
def test_the_page_lists_what_may_differ(table: str, meant: tuple[Meant, ...]):
    rows = table.split("\n\n", maxsplit=1)[0].strip().splitlines()
    assert rows == [f"| `{each.header}` | {each.why} |" for each in meant]
