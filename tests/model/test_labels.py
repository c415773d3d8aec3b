"""How workloads are labelled."""

import pytest

from masche.model.labels import outside


@pytest.mark.parametrize(
    ("labels", "is_told"),
    [({}, False), ({"version": "v2", "app": "orders"}, False), ({"app": "other"}, True)],
)
def test_who_takes_another_label_than_services_select_by_is_told(labels: dict[str, str], *, is_told: bool) -> None:
    said = outside("orders", labels)
    assert bool(said) is is_told
    assert "fix: " in said or not is_told
