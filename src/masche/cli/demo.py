"""``masche demo``: the whole story on one machine, told in the terminal with the dashboard open beside it."""

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import click

from masche.cli.act import Act, BrokenPromiseError, promise
from masche.cli.acts import ACTS, await_shop, open_doors, open_shop
from masche.cli.exits import Exit
from masche.cli.machines import MachinesError, sweep, what_lacks
from masche.cli.output import console, say
from masche.cli.stage import SHOP, Stage, StageError


class _Machines(click.Choice[str]):
    """How many machines there are in the demonstration; any other number is refused in a sentence."""

    def __init__(self) -> None:
        super().__init__(["1", "3"])

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it was given."""
        if value not in self.choices:
            self.fail(f"{value} is no choice: 1 is this machine, 3 are simulated ones in three zones.", param, ctx)
        return str(value)


PREFIX = "masche-demo-"
"""How the names of its folders begin."""


@click.command()
@click.option("--fast", is_flag=True, help="Unattended: no pauses, and a promise that is not kept ends with code 1.")
@click.option("--rate", type=click.IntRange(1, 500), default=50, show_default=True, help="Calls per second.")
@click.option(
    "--machines",
    type=_Machines(),
    default="1",
    show_default=True,
    help="1: this machine. 3: simulated ones in three zones, with one Envoy each; needs Linux and root.",
)
@click.option("--keep-logs", is_flag=True, help="Leave the folder with all logs behind.")
@click.pass_context
def demo(ctx: click.Context, *, fast: bool, rate: int, machines: str, keep_logs: bool) -> None:
    """Start a small shop with a mesh around it, and show what the mesh does for it.

    Real processes, real proxies, real certificates, on loopback alone, in a folder that is removed at the end.
    """
    if machines != "1":
        _prepare(ctx)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    stage = Stage(folder, rate=rate)
    try:
        with _interruptible():
            ctx.exit(_play(stage, _open_machines if machines != "1" else _open, is_fast=fast))
    except KeyboardInterrupt:
        say()
        ctx.exit(Exit.OK if not fast else Exit.INTERRUPTED)
    except (StageError, BrokenPromiseError, MachinesError) as error:
        say(f"✗ {error}", "bold red")
        ctx.exit(Exit.ERROR)
    finally:
        say("ending every process ...", "dim")
        stage.close(keep_logs=keep_logs)
        if keep_logs:
            say(f"logs are in {folder}")


@contextlib.contextmanager
def _interruptible() -> Generator[None]:
    """SIGTERM and a terminal that was closed end the demonstration as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(stage: Stage, open_all: Callable[[Stage], Sequence[Act]], *, is_fast: bool) -> int:
    began = time.monotonic()
    acts = open_all(stage)
    for number, act in enumerate(acts, 1):
        _announce(number, act)
        for line in act.play(stage):
            say(f"  ✓ {line}", "green")
        if not is_fast:
            _pause(last=number == len(acts))
    total = stage.calls(0.0)
    say()
    promise(
        total.failed == stage.lost_in_flight, f"{total.failed} of {total.sent} calls failed: {'; '.join(total.errors)}"
    )
    lost = f" ({total.failed} in the process that was killed)" if total.failed else ""
    say(f"{total.sent} calls in {time.monotonic() - began:.0f} s, {total.failed} failed{lost}.", "bold")
    if not is_fast:
        say("The shop stays open. Change something: `masche apply`, `masche top`, `masche why`. Ctrl-C ends it.")
        say(f"  export MASCHE_DATA={stage.folder}")
        signal.pause()
    return Exit.OK


def _prepare(ctx: click.Context) -> None:
    """Say what is lacking for machines, if anything; remove those of demonstrations that were killed."""
    if lacking := what_lacks():
        say(f"✗ {lacking}", "bold red")
        ctx.exit(Exit.ERROR)
    for left in sweep(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        shutil.rmtree(left, ignore_errors=True)
        say(f"removed what a demonstration left that was killed ({left})", "dim")


def _open_machines(stage: Stage) -> Sequence[Act]:
    from masche.cli.machine_acts import PLACES, Shop

    say("A shop on three machines with a mesh around it: a network namespace each, all of them here.", "bold")
    _say_languages()
    shop = Shop(stage)
    stage.start_control_plane()
    say(f"dashboard: {stage.client.login_link()}")
    stage.apply((SHOP / "shop.yaml").read_text())
    with _progress() as show:
        took = shop.open(show)
    for zone, names in PLACES.items():
        say(f"  {zone}, {shop.machines[zone].address}: {', '.join(names)}")
    total = sum(map(len, PLACES.values()))
    say(f"{total} workloads, each in a network namespace of its own, behind three Envoys; ready in {took:.1f} s")
    return shop.acts()


def _open(stage: Stage) -> Sequence[Act]:
    say("A shop with a mesh around it, on this machine alone.", "bold")
    _say_languages()
    stage.start_control_plane()
    say(f"dashboard: {stage.client.login_link()}")
    stage.apply((SHOP / "shop.yaml").read_text())
    open_shop(stage)
    with _progress() as show:
        took = await_shop(stage, show)
    say(f"7 services' instances, each with its own certificate, ready in {took:.1f} s")
    say("six are behind an Envoy of their own; payment-2 has none: the library is in its process", "dim")
    open_doors(stage)
    say(f"the shop:  http://127.0.0.1:{stage.gateway_port}/   ({stage.rate} calls/s of customers on top)")
    return ACTS


def _say_languages() -> None:
    if shutil.which("node") is None:
        say("(Node is not installed here, so orders runs in Python like the others)", "dim")


@contextlib.contextmanager
def _progress() -> Generator["_Show"]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        yield _Show(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn("starting"), BarColumn(), MofNCompleteColumn(), console=console(), transient=True) as bar:
        yield _Show(bar)


class _Show:
    """Shows how many of how many."""

    def __init__(self, bar: object) -> None:
        self._bar = bar
        self._task: object = None

    def __call__(self, done: int, total: int) -> None:
        from rich.progress import Progress, TaskID

        if isinstance(self._bar, Progress):
            if self._task is None:
                self._task = self._bar.add_task("", total=total)
            assert isinstance(self._task, int), "a TaskID"
            self._bar.update(TaskID(self._task), completed=done)


def _announce(number: int, act: Act) -> None:
    say()
    say(f"{number}. {act.title}", "bold")
    say(f"   {act.story}", "dim")


def _pause(*, last: bool) -> None:
    if not last and sys.stdin.isatty():
        click.prompt("   Enter for the next act", default="", show_default=False, prompt_suffix=" ")
