"""``masche run``: one command as a service of the mesh, behind a proxy of its own."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from masche.cli.captured import Asked, capture_options
from masche.cli.options import Address, Duration, Label, data_option, namespace_option

if TYPE_CHECKING:
    from masche.model.port import Port

PROTOCOLS = ("http", "http2", "grpc", "tcp")
PLACEMENTS = ("sidecar", "node", "library")

_PROBED = "How it is probed: tcp, http:/path, grpc or none."
_WHERE = "A proxy beside it, the machine's one proxy, or gRPC's own xDS client and server in it."


class PortSpec(click.ParamType["Port"]):
    """``8080``, ``web:8080``, ``8080/grpc``, ``api:8080/http2``."""

    name = "[name:]port[/protocol]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Port":
        """Read it, or say what would have been right."""
        from masche.model.port import Port

        match = re.fullmatch(r"(?:([a-z0-9-]{1,63}):)?(\d{1,5})(?:/([a-z0-9]+))?", str(value))
        name, number, protocol = match.groups(default="") if match else ("", "0", "")
        if not 0 < int(number) < 65536 or (protocol and protocol not in PROTOCOLS):
            self.fail(f"{value!r} is no port; write 8080, web:8080 or 8080/grpc ({', '.join(PROTOCOLS)})", param, ctx)
        return Port(port=int(number), name=name, protocol=protocol)


def _health(_ctx: click.Context, _param: click.Parameter, given: str) -> str:
    if given not in {"tcp", "grpc", "none"} and not given.startswith("http:/"):
        raise click.BadParameter(f"{given!r} is not tcp, http:/path, grpc or none")
    return given


def _files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--service", help="The service it belongs to; the command's name without.")
@namespace_option
@click.option("--service-account", default="", help="As whom it calls; the service's name without.")
@click.option("--port", "ports", multiple=True, type=PortSpec(), help="Where the command listens. Repeatable.")
@click.option("--label", "labels", multiple=True, type=Label(), help="A label of the workload. Repeatable.")
@click.option("--depends-on", "dependencies", multiple=True, help="A service that it calls; all without. Repeatable.")
@click.option("--health", default="tcp", callback=_health, show_default=True, help=_PROBED)
@click.option("--placement", type=click.Choice(PLACEMENTS), default="sidecar", show_default=True, help=_WHERE)
@click.option("--zone", default="", help="The zone in which it runs.")
@click.option("--address", type=Address(), help="Where other machines reach this one.")
@click.option("--bind", default="", help="Where its proxy listens and whence it calls, if not --address.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=0, help="Where the command serves metrics.")
@click.option("--grace", type=Duration(), default="10s", show_default=True, help="Between SIGTERM and SIGKILL.")
@click.option("--start-timeout", type=Duration(), default="60s", show_default=True, help="How long the proxy may take.")
@click.option("--strict", "is_strict", is_flag=True, help="Refuse a command that listens beyond loopback.")
@click.option("--envoy", type=click.Path(), default="", help="An Envoy binary of one's own.")
@capture_options
@data_option
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...", shell_complete=_files
)
@click.pass_context
def run(
    ctx: click.Context,
    *,
    command: tuple[str, ...],
    service: str | None,
    labels: tuple[tuple[str, str], ...],
    dependencies: tuple[str, ...],
    address: str | None,
    placement: str,
    is_strict: bool,
    asked: "Asked",
    **as_named: Any,
) -> None:
    """Run a COMMAND as a service of the mesh.

    It gets a proxy with an identity, one SERVICE_URL variable per service that it may call, and HTTP_PROXY. Signals
    reach it, leaving is orderly, and its exit code is ours. Without --port it is a job: it calls, nobody calls it.
    With --placement library there is no proxy: COMMAND uses xds:/// and xDS credentials of gRPC (docs/grpc.md). With
    --placement node, or --capture, it gets a network namespace instead, whose connections all go to the proxy, and
    calls services by their names (docs/capture.md).
    """
    asked.check(placement, is_strict=is_strict)
    if placement == "library":
        _refuse_of_proxies({"--envoy": as_named["envoy"], "--bind": as_named["bind"], "--strict": is_strict})
    from masche.agent.options import RunOptions
    from masche.agent.runner import run as run_in_seat
    from masche.model.vantage import Placement

    options = RunOptions(
        command=command,
        service=service or _named_after(command[0]),
        labels=dict(labels),
        dependencies=dependencies or None,
        address=address or "",
        placement=Placement(placement),
        is_strict=is_strict,
        is_captured=asked.is_captured,
        netns=asked.netns,
        workload_address=asked.address,
        user=asked.user,
        exclusions=asked.exclusions,
        **as_named,  # what RunOptions calls as we do
    )
    ctx.exit(run_in_seat(options))


def _refuse_of_proxies(given: dict[str, object]) -> None:
    """Options that would do nothing for a command without a proxy."""
    for option in (option for option, value in given.items() if value):
        raise click.UsageError(f"{option} is about a proxy, and with --placement library there is none")


def _named_after(command: str) -> str:
    """A service name out of a command's: ``./Orders.py`` -> ``orders``."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(command).stem.lower()).strip("-")[:63]
    if not name:
        raise click.UsageError(f"{command!r} gives no name for the service; say --service NAME")
    return name
