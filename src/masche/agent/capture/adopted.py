"""What a network namespace that somebody else made is like, before anything is done to it."""

import json
from dataclasses import dataclass

from masche.agent.capture.apply import CaptureError, Shell
from masche.agent.capture.names import TABLE, path_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Its ``address`` on the way out, whether IPv6 leads out too, and whether it has a table of ours or of our kind."""

    address: str
    has_ipv6: bool
    has_table: bool


async def look(shell: Shell, namespace: str) -> Around:
    """Look around in a namespace. Raises CaptureError when nothing leads out of it."""
    routes = json.loads(await shell.run(("ip", "-n", namespace, "-4", "-json", "route", "show", "default")) or "[]")
    if not routes:
        raise CaptureError(
            f"the network namespace {namespace} has no default route, so connections to the mesh could not begin",
            fix=f"give it one: ip -n {namespace} route add default ... (nothing of the mesh will go there)",
        )
    routes6 = json.loads(await shell.run(("ip", "-n", namespace, "-6", "-json", "route", "show", "default")) or "[]")
    tables = await shell.run(("nsenter", f"--net={path_of(namespace)}", "nft", "list", "tables"))
    source = routes[0].get("prefsrc") or await _first_address(shell, namespace, routes[0]["dev"])
    has_table = f"table inet {TABLE}" in tables.splitlines()
    return Around(address=source, has_ipv6=bool(routes6), has_table=has_table)


async def _first_address(shell: Shell, namespace: str, device: str) -> str:
    said = await shell.run(("ip", "-n", namespace, "-4", "-json", "addr", "show", "dev", device))
    found = [each["local"] for link in json.loads(said or "[]") for each in link.get("addr_info", ())]
    return found[0] if found else ""
