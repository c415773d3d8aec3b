"""``masche events``: what happened, and what happens."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from masche.cli.options import data_option, output_option
from masche.cli.output import Form, emit, note, say

if TYPE_CHECKING:
    from masche.api.client import Client
    from masche.api.messages import Event

STYLES = {"info": "", "warning": "yellow", "error": "red"}
RECONNECT = 1.0
PAGE = 1000


@click.command()
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    help="Only events after this sequence number; a control plane begins at 1.",
)
@click.option("--kind", "kinds", multiple=True, help="Only events of this kind, such as ejected. Repeatable.")
@click.option("--about", default="", help="Only events about this: a workload, a service, a proxy, a machine.")
@output_option
@data_option
def events(*, follow: bool, after: int, kinds: tuple[str, ...], about: str, form: Form | None, data: Path) -> None:
    """What happened: who came and went, where traffic was moved and why, configuration rejected, certificates.

    With --follow, -o json prints one event per line.
    """
    from masche.api.client import Client

    client = Client.of(data)
    asked = Asked(kinds=frozenset(kinds), about=about)
    seen = _all(client, after=after)
    found = [event for event in seen if asked.takes(event)]
    if form is not None and not follow:
        emit(found, form)
        return
    for event in found:
        _say(event, form)
    if not found and not follow:
        kinds_seen = ", ".join(sorted({event.kind for event in seen}))
        note(f"nothing of that among {len(seen)} events, which are {kinds_seen}" if seen else "nothing happened")
    if follow:
        for event in _follow(client, after=seen[-1].sequence if seen else after):
            if asked.takes(event):
                _say(event, form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which events are wanted; without ``kinds`` all kinds, without ``about`` whatever they are about."""

    kinds: frozenset[str] = frozenset()
    about: str = ""

    def takes(self, event: "Event") -> bool:
        """``shop/orders`` stands for the service, for its ports (``shop/orders:80``), its resource and its workload."""
        if self.kinds and event.kind not in self.kinds:
            return False
        named = event.about.partition(":")[0]
        return not self.about or self.about in {event.about, named} or named.endswith(f"/{self.about}")


def _all(client: "Client", *, after: int) -> "list[Event]":
    found: list[Event] = []
    while page := client.events(after=after, limit=PAGE).events:
        found += page
        after = page[-1].sequence
    return found


def _follow(client: "Client", *, after: int) -> "Iterator[Event]":
    """Events as they happen; a control plane that restarts is waited for."""
    from masche.api.client import UnreachableError
    from masche.api.messages import Event

    while True:
        try:
            for message in client.live(after=after):
                if isinstance(message, Event):
                    after = message.sequence
                    yield message
            note("the control plane ended the stream; trying again")
        except UnreachableError as error:
            note(f"{error.message}; trying again")
        time.sleep(RECONNECT)


def _say(event: "Event", form: Form | None) -> None:
    match form:
        case Form.JSON:
            click.echo(msgspec.json.encode(event))
        case Form.YAML:
            click.echo("---")
            emit(event, form)
        case None:
            at = _clock(event.at)
            about = (
                f" {event.about}:"
                if event.about and not event.message.startswith((f"{event.about} ", f"{event.about}:"))
                else ""
            )
            say(f"{event.sequence:>6}  {at}  {event.kind}{about} {event.message}", STYLES.get(event.severity, ""))


def _clock(instant: float) -> str:
    """The time of day here, and the day when that is not today."""
    then = datetime.fromtimestamp(instant, tz=UTC).astimezone()
    is_today = then.date() == datetime.now(tz=UTC).astimezone().date()
    return then.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")
