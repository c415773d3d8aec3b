"""What holds for every test: the long forms run in ``make test-long`` only, and only there chance is new each time."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
if not os.environ.get("MASCHE_LONG"):
    settings.load_profile("repeatable")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("MASCHE_LONG"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests said of themselves: how many cases they put to something, and by which seed."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for said in [value for report in reports for name, value in report.user_properties if name == "parity"]:
        terminalreporter.write_line(f"parity: {said}")
