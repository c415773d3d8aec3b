"""When memory is given back, and what that takes away."""

import gc
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import pytest

from masche.agent import memory
from masche.agent.tidying import Pace

MEGABYTES = 8
_READER = (
    "import mmap, sys\n"
    "with open(sys.argv[1], 'rb') as file:\n"
    "    pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)\n"
    "print(sum(pages[::4096]), flush=True)\n"
    "sys.stdin.read()\n"
)


def times(*seats: tuple[int, int]) -> list[int]:
    """The seconds at which it is time, when these sit here, a second each."""
    pace = Pace(now=0.0)
    return [second for second, each in enumerate(seats) if pace.is_due(each, now=float(second))]


def test_it_is_time_once_nobody_comes_any_more_and_less_and_less_often_after_that() -> None:
    assert times(*[(3, 0)] * 60) == [2, 10, 42]


def test_it_is_not_time_while_somebody_comes_or_starts() -> None:
    coming = [(number, 1) for number in range(20)]
    assert times(*coming) == []
    assert times(*coming, *[(20, 0)] * 3) == [22]


def test_it_is_time_again_after_somebody_left() -> None:
    assert times(*[(3, 0)] * 5, *[(2, 0)] * 5) == [2, 7]


def test_a_workload_that_keeps_starting_keeps_nothing() -> None:
    assert times(*[(3, 1)] * 5) == [2]


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_when_memory_was_given_back_can_go_later() -> None:
    """What a collection is told to overlook would stay for ever: tasks and the like refer to themselves."""
    one = _Cycle()
    memory.give_back()
    gone = weakref.ref(one)
    del one
    gc.collect()
    memory.give_back()
    assert gone() is None


@pytest.mark.root
def test_another_process_forgets_what_it_read_of_its_files() -> None:
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:  # a disk: what is on none cannot be read again
        file.write(b"x" * (MEGABYTES << 20))
        file.flush()
        reader = subprocess.Popen(
            [sys.executable, "-c", _READER, file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with reader:
            assert reader.stdout
            assert int(reader.stdout.readline()) == ord("x") * MEGABYTES * 256
            before = resident_kb(reader.pid, file.name)
            subprocess.run(["sync", file.name], check=True)
            memory.page_out(reader.pid)
            assert (before, resident_kb(reader.pid, file.name)) == (MEGABYTES * 1024, 0)
            assert reader.poll() is None


def test_nothing_happens_to_a_process_that_is_gone() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    memory.page_out(ended.pid)


def resident_kb(pid: int, file: str) -> int:
    lines = iter(Path(f"/proc/{pid}/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(file):
            return next(int(each.split()[1]) for each in lines if each.startswith("Rss:"))
    raise AssertionError(f"{file} is not mapped")
