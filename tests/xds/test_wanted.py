"""Tables: what differs between two of them is found once and shared."""

from xds_worlds import blob, world

from masche.wire.types import CLUSTER, ENDPOINTS
from masche.xds.wanted import EMPTY, Table


def test_what_changed_came_and_went_is_named_and_nothing_else():
    before = Table([blob(ENDPOINTS, "same"), blob(ENDPOINTS, "changed"), blob(ENDPOINTS, "gone")])
    after = Table([blob(ENDPOINTS, "same"), blob(ENDPOINTS, "changed", "b"), blob(ENDPOINTS, "new")])
    assert after.changed_since(before) == {"changed", "gone", "new"}
    assert after.changed_since(after) == frozenset()
    assert before.changed_since(EMPTY) == set(before)


def test_replacing_what_is_equal_gives_the_same_table():
    table = Table([blob(ENDPOINTS, "a")])
    assert table.replaced(put=[blob(ENDPOINTS, "a")], removed=["ghost"]) is table
    assert set(table.replaced(put=[blob(ENDPOINTS, "b")], removed=["a"])) == {"b"}


def test_the_differences_are_computed_once_for_all_streams():
    before, after = Table([blob(ENDPOINTS, "a")]), Table([blob(ENDPOINTS, "a", "b")])
    assert after.changed_since(before) is after.changed_since(before)


def test_blobs_are_sorted_into_the_tables_of_their_types():
    wanted = world(blob(ENDPOINTS, "a"), blob(CLUSTER, "a"), blob(ENDPOINTS, "b"))
    assert {kind: set(table) for kind, table in wanted.items()} == {CLUSTER: {"a"}, ENDPOINTS: {"a", "b"}}
    assert len(wanted.table("nothing of this type")) == 0
