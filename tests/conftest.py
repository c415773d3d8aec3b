"""What holds for every test: the long forms run in ``make test-long`` only, and only there chance is new each time."""

import gc
import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import settings

import packing

settings.register_profile("new each time", deadline=None)  # how long an example takes is a matter of luck
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("new each time" if os.environ.get("MASCHE_LONG") else "repeatable")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--alone", choices=("never", "only"), help="leave out, or run only, tests that need the machine")
    parser.addoption("--record-seconds", action="store_true", help="note how long each module takes, for their order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several; alone, modules come in any order
        packing.arrange(items)
    _select(config, items, lambda item: bool(os.environ.get("MASCHE_LONG")) or not item.get_closest_marker("long"))
    if alone := config.getoption("--alone"):
        _select(config, items, lambda item: bool(item.get_closest_marker("alone")) == (alone == "only"))


def _select(config: pytest.Config, items: list[pytest.Item], is_wanted: Callable[[pytest.Item], bool]) -> None:
    if unwanted := [item for item in items if not is_wanted(item)]:
        items[:] = [item for item in items if is_wanted(item)]
        config.hook.pytest_deselected(items=unwanted)


def pytest_collection_finish() -> None:
    """Have no later collection of garbage look at what was imported and collected: it stays."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests said of themselves: how many cases they put to something, and by which seed."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if terminalreporter.config.getoption("--record-seconds"):
        packing.record([*reports, *terminalreporter.getreports("")])
    for said in [value for report in reports for name, value in report.user_properties if name == "parity"]:
        terminalreporter.write_line(f"parity: {said}")
