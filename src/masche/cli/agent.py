"""``masche agent``: this machine's agent in the foreground, for those who do not leave it to ``masche run``."""

from pathlib import Path

import click

from masche.cli.options import Duration, data_option


@click.command()
@data_option
@click.option("--envoy", default="", help="An Envoy binary of one's own.")
@click.option("--zone", default="", help="The zone in which this machine is.")
@click.option("--address", default="", help="Where other machines reach this one.")
@click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Where metrics are served.")
@click.option("--idle-exit", type=Duration(), help="End after so long without a workload; never without.")
@click.pass_context
def agent(
    ctx: click.Context,
    *,
    data: Path,
    envoy: str,
    zone: str,
    address: str,
    metrics_address: str,
    idle_exit: float | None,
) -> None:
    """Run this machine's agent: it holds the keys, runs the proxies and speaks to the control plane."""
    from masche.agent.options import AgentOptions
    from masche.agent.process import main

    options = AgentOptions(
        data=data, envoy=envoy, zone=zone, address=address, metrics_address=metrics_address, idle_exit=idle_exit
    )
    ctx.exit(main(options))
