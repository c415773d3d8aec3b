"""``masche gateway``: a way in, on this machine."""

from pathlib import Path

import click

from masche.cli.options import Duration, data_option, namespace_option


@click.command()
@click.option("--listen", required=True, metavar="IP[:PORT]", help="Where the Gateway's listeners are opened.")
@click.option("--gateway", "name", default="gateway", show_default=True, help="The Gateway to carry out.")
@namespace_option
@click.option("--service-account", default="", help="As whom it calls; the Gateway's name without.")
@click.option("--zone", default="", help="The zone in which it runs.")
@click.option("--address", default="", help="Where other machines reach this one.")
@click.option("--envoy", default="", help="An Envoy binary of one's own.")
@click.option("--start-timeout", type=Duration(), default="60s", show_default=True, help="How long the proxy may take.")
@data_option
@click.pass_context
def gateway(
    ctx: click.Context,
    *,
    listen: str,
    name: str,
    namespace: str,
    service_account: str,
    zone: str,
    address: str,
    envoy: str,
    start_timeout: float,
    data: Path,
) -> None:
    """Carry out a Gateway: open its listeners on this machine and send what comes in where its routes say."""
    from masche.agent.gateway import run
    from masche.agent.options import GatewayOptions

    options = GatewayOptions(
        data=data,
        listen=listen,
        namespace=namespace,
        gateway=name,
        service_account=service_account,
        zone=zone,
        address=address,
        envoy=envoy,
        start_timeout=start_timeout,
    )
    ctx.exit(run(options))
