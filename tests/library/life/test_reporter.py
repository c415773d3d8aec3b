"""A Report is said once, whoever wants it said."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from masche.library.life.measures import Sums
from masche.library.life.presence import Presence
from masche.library.life.reporter import Reporter
from masche.link.messages import Report, ReportReply


def test_who_leaves_while_a_report_is_under_way_says_it_no_second_time() -> None:
    async def leave() -> list[Any]:
        measures = SimpleNamespace(collect=lambda _sums: None)
        presence = SimpleNamespace(measures=measures, sums=Sums(), pending=["first", "second"], sequence=2)
        sent: list[Any] = []

        async def send(report: Report) -> ReportReply:
            sent.append(report)
            await asyncio.sleep(0)
            return cast("ReportReply", None)

        reporter = Reporter(cast("Presence", presence), send, is_live=lambda: True)
        reporter._made = list  # type: ignore[method-assign] # nothing new is to be said
        await asyncio.gather(reporter.report(), reporter.report())
        assert not presence.pending
        return sent

    assert asyncio.run(leave()) == ["first", "second"]
