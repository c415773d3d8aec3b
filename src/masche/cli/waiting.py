"""Waits until a revision is live, as ``apply`` and ``delete`` do, and says who is live, rejected, pending and absent.

Invariant: the exit code is the truth about the proxies, not about the store: LIVE is 0, REJECTED 3, PENDING 4.
"""

import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import msgspec

from masche.api.client import Client, UnreachableError
from masche.api.messages import Applied, Rollout, RolloutProxy, RolloutState
from masche.cli.exits import Exit
from masche.cli.output import Form, console, emit, say, warn

if TYPE_CHECKING:
    from rich.status import Status

POLL = 0.1
VERB_STYLES = {"created": "green", "configured": "yellow", "deleted": "red", "unchanged": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, in seconds; None does not wait."""

    timeout: float | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``-o json`` prints: what was stored, and how far it came (null without waiting or for a dry run)."""

    applied: Applied
    rollout: Rollout | None = None


def carry_out(client: Client, applied: Applied, *, patience: Patience, form: Form | None) -> None:
    """Print what was stored, wait, print how far it came, and exit with the code that says so."""
    if form is None:
        _say_applied(applied)
    warn(applied.diagnostics)
    if applied.is_dry_run or patience.timeout is None:
        if form is not None:
            emit(Outcome(applied=applied), form)
        return
    rollout = _wait(client, applied.revision, timeout=patience.timeout)
    if form is not None:
        emit(Outcome(applied=applied, rollout=rollout), form)
    else:
        _say_rollout(rollout)
    raise click.exceptions.Exit(exit_of(rollout.state))


def exit_of(state: RolloutState) -> Exit:
    """The exit code of a rollout."""
    match state:
        case RolloutState.LIVE:
            return Exit.OK
        case RolloutState.REJECTED:
            return Exit.REJECTED
        case RolloutState.PENDING:
            return Exit.PENDING


def _wait(client: Client, revision: int, *, timeout: float) -> Rollout:
    """Ask until it is live or rejected or the time is up; a control plane that restarts meanwhile is waited for too."""
    deadline = time.monotonic() + timeout
    rollout = Rollout(revision=revision, state=RolloutState.PENDING, is_compiled=False)
    with console(is_error=True).status(f"revision {revision}") as shown:
        while True:
            rollout = _ask(client, rollout, shown)
            if rollout.state is not RolloutState.PENDING or time.monotonic() >= deadline:
                return rollout
            time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))


def _ask(client: Client, last: Rollout, shown: "Status") -> Rollout:
    try:
        rollout = client.progress(last.revision)
    except UnreachableError:
        shown.update(f"revision {last.revision} is stored; waiting for the control plane to come back")
        return last
    waiting = f", e.g. {rollout.pending[0].workload}" if rollout.pending else ""
    shown.update(f"revision {rollout.revision}: {len(rollout.live)} live, {len(rollout.pending)} pending{waiting}")
    return rollout


def _say_applied(applied: Applied) -> None:
    would = " (dry run)" if applied.is_dry_run else ""
    for change in applied.changed:
        say(f"{change.ref} {change.verb}{would}", VERB_STYLES[change.verb])
    if applied.is_dry_run:
        _say_impact(applied)


def _say_impact(applied: Applied) -> None:
    if not applied.impact:
        say("no connected workload would change")
        return
    say(f"{len(applied.impact)} connected workloads would change:")
    for impact in applied.impact:
        say(f"  {impact.workload} ({impact.proxy})")
        for sentence in impact.sentences:
            say(f"    {sentence}")


def _say_rollout(rollout: Rollout) -> None:
    _say_group("rejected", "red", rollout.rejected, _words)
    _say_group("pending", "yellow", rollout.pending, lambda proxy: [proxy.waiting_for] if proxy.waiting_for else [])
    _say_group("absent", "dim", rollout.absent, lambda _: [])
    _say_group("live", "green", rollout.live, lambda _: [])
    say(summary(rollout), {"live": "green", "rejected": "red", "pending": "yellow"}[rollout.state])


def summary(rollout: Rollout) -> str:
    """One line on how far a revision came."""
    if not rollout.is_compiled:
        return f"revision {rollout.revision} is stored; the control plane has not compiled it yet"
    groups = {"rejected": rollout.rejected, "pending": rollout.pending, "absent": rollout.absent}
    counts = ", ".join(f"{len(proxies)} {word}" for word, proxies in groups.items() if proxies)
    if not (rollout.live or counts):
        return f"revision {rollout.revision} is live: it changes nothing for any proxy"
    if rollout.state is not RolloutState.LIVE:
        return f"revision {rollout.revision} is {rollout.state}: {_proxies(rollout.live)} live, {counts}"
    return f"revision {rollout.revision} is live on {_proxies(rollout.live)}" + (f" ({counts})" if counts else "")


def _proxies(some: Sized) -> str:
    return f"{len(some)} prox{'y' if len(some) == 1 else 'ies'}"


def _words(proxy: RolloutProxy) -> list[str]:
    return [f"{rejection.name}: {rejection.words}" for rejection in proxy.rejections]


def _say_group(
    word: str, style: str, proxies: Iterable[RolloutProxy], details: Callable[[RolloutProxy], list[str]]
) -> None:
    for proxy in proxies:
        say(f"{word}  {proxy.workload} ({proxy.proxy})", style)
        for detail in details(proxy):
            say(f"    {detail}")
