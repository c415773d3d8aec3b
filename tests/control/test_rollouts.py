"""How far a revision has come."""

from masche.control.rollouts import KEPT, Progress, Rollouts
from masche.xds.verdict import Rejection


def rejection(name: str, version: str = "1") -> Rejection:
    return Rejection(type_url="t", name=name, version=version, why="bad regex")


def test_a_revision_belongs_to_the_compilation_that_it_went_into() -> None:
    rollouts = Rollouts()
    rollouts.record(5, ["a"])
    rollouts.record(9, ["b"])
    assert [rollouts.compilation_of(revision) for revision in (3, 5, 6, 9)] == [5, 5, 9, 9]
    assert rollouts.affected(9) == {"b"}


def test_a_revision_that_is_not_compiled_yet_has_no_compilation() -> None:
    rollouts = Rollouts()
    rollouts.record(5, [])
    assert rollouts.compilation_of(6) is None


def test_two_compilations_of_one_revision_add_up() -> None:
    rollouts = Rollouts()
    rollouts.record(5, ["a"])
    rollouts.record(5, ["b"])
    assert rollouts.affected(5) == {"a", "b"}


def test_a_proxy_that_left_for_good_is_waited_for_by_nobody() -> None:
    rollouts = Rollouts()
    rollouts.record(5, ["a", "b"])
    rollouts.forget_proxy("a")
    assert rollouts.affected(5) == {"b"}


def test_only_so_many_compilations_are_remembered() -> None:
    rollouts = Rollouts()
    for revision in range(KEPT + 10):
        rollouts.record(revision, ["a"])
    assert rollouts.forgotten_up_to() == 9
    assert rollouts.affected(9) == frozenset()


def test_a_refusal_is_news_once_per_version_and_keeps_the_revision_that_brought_it() -> None:
    progress = Progress(target=7)
    assert progress.heard([rejection("x")]) == (rejection("x"),)
    progress.target = 8
    assert progress.heard([rejection("x")]) == ()
    assert progress.refused_since(7) == (rejection("x"),)
    assert progress.refused_since(8) == ()
    assert progress.heard([rejection("x", "2")]) == (rejection("x", "2"),)
    assert progress.refused_since(8) == (rejection("x", "2"),)


def test_a_refusal_that_is_over_is_forgotten() -> None:
    progress = Progress(target=7)
    progress.heard([rejection("x")])
    progress.heard([])
    assert progress.refusals == {}


def test_a_refusal_that_is_told_twice_in_one_breath_is_news_once() -> None:
    assert Progress(target=7).heard([rejection("x"), rejection("x")]) == (rejection("x"),)
