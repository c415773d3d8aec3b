"""``masche agent``: this machine's agent in the foreground, for those who do not leave it to ``masche run``."""

from pathlib import Path

import click

from masche.cli.exits import Exit
from masche.cli.options import Address, Duration, data_option


@click.command()
@data_option
@click.option("--envoy", type=click.Path(), default="", help="An Envoy binary of one's own.")
@click.option("--zone", default="", help="The zone in which this machine is.")
@click.option("--address", type=Address(), help="Where other machines reach this one.")
@click.option(
    "--metrics-address", type=Address(), default="127.0.0.1", show_default=True, help="Where metrics are served."
)
@click.option("--idle-exit", type=Duration(), help="End after so long without a workload; never without.")
@click.option(
    "--address-range",
    default="",
    metavar="NETWORK",
    help="IPv4 addresses of captured workloads. [default: 10.N.0.0/16, free]",
)
@click.option("--cleanup", is_flag=True, help="Remove what agents of this data folder left, and end.")
@click.option(
    "--upgrade", is_flag=True, help="Have the agent that runs replace its Envoy by that of now, under load, and end."
)
@click.pass_context
def agent(
    ctx: click.Context,
    *,
    data: Path,
    envoy: str,
    zone: str,
    address: str | None,
    metrics_address: str,
    idle_exit: float | None,
    address_range: str,
    cleanup: bool,
    upgrade: bool,
) -> None:
    """Run this machine's agent: it holds the keys, runs the proxies and speaks to the control plane.

    With --cleanup it does none of that, but removes the network namespaces, links, tables and files that agents of this
    data folder left behind, while none of them runs. With --upgrade it asks the agent that runs to replace the Envoy of
    the node placement, after its binary was replaced; no call is lost.
    """
    from masche.agent.options import AgentOptions
    from masche.agent.process import main

    if cleanup:
        from masche.agent.cleanup import cleanup as clean

        ctx.exit(clean(data, click.echo))
    if upgrade:
        ctx.exit(_upgrade(data))
    options = AgentOptions(
        data=data,
        envoy=envoy,
        zone=zone,
        address=address or "",
        metrics_address=metrics_address,
        idle_exit=idle_exit,
        address_range=_range(address_range),
    )
    ctx.exit(main(options))


def _upgrade(data: Path) -> int:
    from masche.agent.folders import Folders
    from masche.agent.local import Denied, Upgraded
    from masche.agent.stopping import upgrade

    match upgrade(Folders(data)):
        case Upgraded(pid=0):
            click.echo("no Envoy serves several workloads here, so there is none to replace")
            return Exit.OK
        case Upgraded(pid=pid):
            click.echo(f"replaced: the Envoy that serves now is process {pid}")
            return Exit.OK
        case Denied(why=why, fix=fix):
            click.echo(f"not replaced: {why}\n{fix}", err=True)
            return Exit.ERROR
        case None:
            click.echo(f"no agent of {data} answers", err=True)
            return Exit.ERROR


def _range(given: str) -> str:
    from masche.agent.capture.ranges import RangeError, parse

    try:
        return given and str(parse(given, "0").v4)
    except RangeError as error:
        raise click.BadParameter(str(error), param_hint="--address-range") from error
