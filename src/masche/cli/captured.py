"""The options by which ``masche run`` captures a command, and what cannot be asked together."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from masche.agent.capture.exclusions import ExclusionError, Exclusions

PORT = click.IntRange(1, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked of capture on one command line."""

    is_captured: bool
    netns: str
    address: str
    user: str
    exclusions: Exclusions

    def check(self, placement: str, *, is_strict: bool) -> None:
        """Raise UsageError for what cannot be had together."""
        if self.is_captured and placement == "library":
            raise click.UsageError("--capture leads to a proxy, and with --placement library there is none")
        if self.is_captured or placement == "node":
            if self.netns and self.address:
                raise click.UsageError("--netns and --workload-address say two places where the command is: say one")
            if is_strict:
                raise click.UsageError("--strict is for commands that are not captured: nobody goes around capture")
            return
        given = {
            "--netns": self.netns,
            "--workload-address": self.address,
            "--exclude-outbound-port": self.exclusions.outbound_ports,
            "--exclude-outbound-address": self.exclusions.outbound_addresses,
            "--exclude-inbound-port": self.exclusions.inbound_ports,
            "--exclude-uid": self.exclusions.uids,
        }
        for option, value in given.items():
            if value:
                raise click.UsageError(f"{option} is for captured commands: add --capture or --placement node")


class Uid(click.ParamType[int]):
    """A number, or the name of a user of this machine, into a uid."""

    name = "user"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or say what would have been right."""
        import pwd

        if str(value).isdecimal():
            return int(value)
        try:
            return pwd.getpwnam(str(value)).pw_uid
        except KeyError:
            self.fail(f"{value!r} is neither a number nor a user of this machine", param, ctx)


_EXCLUDED = "Leave connections {} this port alone. Repeatable."
_NETWORK = "Leave connections there alone. Repeatable."
_ADDRESS = "Capture by this address of the machine, not by namespace."

_OPTIONS = (
    click.option("--capture", "is_captured", is_flag=True, help="Send all its connections to the sidecar."),
    click.option("--netns", default="", metavar="NAME", help="Capture in this network namespace (see `ip netns`)."),
    click.option("--workload-address", default="", metavar="IP", help=_ADDRESS),
    click.option("--user", default="", help="As which user to run the command."),
    click.option("--exclude-outbound-port", "outbound_ports", multiple=True, type=PORT, help=_EXCLUDED.format("to")),
    click.option("--exclude-outbound-address", "outbound_addresses", multiple=True, metavar="NETWORK", help=_NETWORK),
    click.option("--exclude-inbound-port", "inbound_ports", multiple=True, type=PORT, help=_EXCLUDED.format("at")),
    click.option("--exclude-uid", "uids", multiple=True, type=Uid(), help="Leave processes of it alone. Repeatable."),
)


def capture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command is given ``asked``."""

    @functools.wraps(command)
    def asking(*args: Any, **given: Any) -> Any:
        ours = {name: given.pop(name) for name in inspect.signature(_asked).parameters}
        return command(*args, asked=_asked(**ours), **given)

    return functools.reduce(lambda made, option: option(made), reversed(_OPTIONS), asking)


def _asked(
    *,
    is_captured: bool,
    netns: str,
    workload_address: str,
    user: str,
    outbound_ports: tuple[int, ...],
    outbound_addresses: tuple[str, ...],
    inbound_ports: tuple[int, ...],
    uids: tuple[int, ...],
) -> Asked:
    exclusions = Exclusions(
        outbound_ports=outbound_ports,
        outbound_addresses=outbound_addresses,
        uids=uids,
        inbound_ports=inbound_ports,
    )
    try:
        exclusions.check()
    except ExclusionError as error:
        raise click.UsageError(str(error)) from error
    return Asked(is_captured=is_captured, netns=netns, address=workload_address, user=user, exclusions=exclusions)
