"""``masche gateway``: a way in, on this machine."""

from pathlib import Path

import click

from masche.cli.options import Address, Duration, data_option

ROOT_NAMESPACE = "masche-system"
"""Unless a MeshConfig says otherwise; a control plane refuses a gateway between zones of another, and says which."""


@click.command()
@click.option("--listen", default="", metavar="IP[:PORT]", help="Where the Gateway's listeners are opened.")
@click.option("--gateway", "name", default="", help="The Gateway to carry out; `gateway` without.")
@click.option("--east-west", is_flag=True, help="Carry detours between zones instead of a Gateway.")
@click.option(
    "-n", "--namespace", default="", help="Of the Gateway: `default`; between zones: the mesh's root namespace."
)
@click.option("--service-account", default="", help="As whom it calls; the Gateway's name without.")
@click.option("--zone", default="", help="The zone in which it runs.")
@click.option("--address", type=Address(), help="Where other machines reach this one.")
@click.option("--envoy", type=click.Path(), default="", help="An Envoy binary of one's own.")
@click.option("--start-timeout", type=Duration(), default="60s", show_default=True, help="How long the proxy may take.")
@data_option
@click.pass_context
def gateway(
    ctx: click.Context,
    *,
    listen: str,
    name: str,
    east_west: bool,
    namespace: str,
    service_account: str,
    zone: str,
    address: str | None,
    envoy: str,
    start_timeout: float,
    data: Path,
) -> None:
    """Carry out a Gateway: open its listeners on this machine and send what comes in where its routes say.

    With --east-west it carries calls from zone to zone instead, in tunnels whose inside it cannot read, while the
    direct link between two zones is slow. It listens on this machine's address, on port 15008 or the next that is free.
    """
    if east_west and (name or service_account):
        raise click.UsageError("--east-west carries out no Gateway and has an account of its own")
    if not east_west and not listen:
        raise click.UsageError("Missing option '--listen'.")
    from masche.agent.gateway import run
    from masche.agent.options import GatewayOptions

    options = GatewayOptions(
        data=data,
        listen=listen,
        namespace=namespace or (ROOT_NAMESPACE if east_west else "default"),
        gateway=name or "gateway",
        is_east_west=east_west,
        service_account=service_account,
        zone=zone,
        address=address or "",
        envoy=envoy,
        start_timeout=start_timeout,
    )
    ctx.exit(run(options))
