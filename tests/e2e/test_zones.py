"""Zones, and the gateways between them, as people start them."""

import contextlib
import json
import socket
from pathlib import Path

import pytest

from e2e.mesh import Instance, Mesh, free_port, service
from e2e.waiting import until
from masche.agent.folders import Folders
from masche.api.messages import ProxyStatus


@pytest.fixture(scope="module")
def zones(mesh: Mesh) -> Instance:
    """An instance in zone a, in a mesh with the Service orders."""
    mesh.apply(service("orders"))
    found = mesh.run("orders", options=["--zone", "a"])
    mesh.await_ready(found)
    return found


def carriers(mesh: Mesh) -> list[ProxyStatus]:
    """The gateways between zones that serve now."""
    found = [each for each in mesh.status().proxies if each.workload.startswith("masche-system/east-west-")]
    return [each for each in found if each.state == "READY" and each.is_connected and each.is_in_sync]


def takes_detours(instance: Instance) -> bool:
    return "detour" in instance.admin.dump()["listeners"]


def test_a_gateway_between_zones_comes_is_listed_and_goes(mesh: Mesh, zones: Instance) -> None:
    assert not takes_detours(zones)
    process = mesh.east_west("carrier", "--zone", "c")
    (carrier,) = until(lambda: carriers(mesh), "the gateway serves")
    assert (carrier.zone, carrier.identity) == ("c", "spiffe://mesh.local/ns/masche-system/sa/east-west")
    listed = mesh.masche("status", "--wide").stdout
    assert [line for line in listed.splitlines() if carrier.workload in line and "READY" in line], listed
    until(lambda: takes_detours(zones), "others know the way")
    assert f"{carrier.workload} carries detours between zones, on 127.0.0.1:" in mesh.log("carrier")
    process.terminate()
    assert process.wait(40) == 0
    until(lambda: not takes_detours(zones), "others forgot the way")
    assert carriers(mesh) == []


def test_a_gateway_between_zones_leads_to_the_instances_that_there_are(mesh: Mesh, zones: Instance) -> None:
    process = mesh.east_west("leading", "--zone", "c")
    (carrier,) = until(lambda: carriers(mesh), "the gateway serves")
    place = Folders(mesh.data).seat(carrier.workload)
    admin = json.loads((place / "bootstrap.json").read_bytes())["admin"]["address"]["pipe"]["path"]
    known = type(zones.admin)(Path(admin))
    (table,) = known.dump()["routes"].values()
    domains = {domain for host in table["virtual_hosts"] for domain in host["domains"]}
    assert f"127.0.0.1:{zones.mesh_port}" in domains
    assert f"127.0.0.1:{zones.app_port}" not in domains
    process.terminate()
    assert process.wait(40) == 0


def test_a_gateway_between_zones_listens_where_it_was_told_or_not_at_all(mesh: Mesh, zones: Instance) -> None:
    port = free_port()
    process = mesh.east_west("told", "--zone", "c", "--listen", f"127.0.0.1:{port}")
    until(lambda: carriers(mesh), "the gateway serves")
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=5)):
        pass
    second = mesh.east_west("late", "--zone", "d", "--listen", f"127.0.0.1:{port}")
    assert second.wait(40) == 125
    assert f"port {port} of 127.0.0.1 is taken" in mesh.log("late")
    process.terminate()
    assert process.wait(40) == 0


def test_two_zones_have_gateways_of_their_own_on_one_machine(mesh: Mesh, zones: Instance) -> None:
    both = [mesh.east_west(f"of-{zone}", "--zone", zone) for zone in ("b", "c")]
    until(lambda: {each.zone for each in carriers(mesh)} == {"b", "c"}, "both serve")
    for each in both:
        each.terminate()
    assert [each.wait(40) for each in both] == [0, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--zone", "c", "-n", "shop"], "a gateway between zones is of the namespace masche-system"),
        (["--zone", "c", "--service-account", "web"], "has an account of its own"),
        (["--zone", "c", "--gateway", "edge"], "carries out no Gateway"),
        (["--zone", "c", "--listen", "nowhere"], "is neither an IP address nor IP:PORT"),
    ],
)
def test_what_cannot_be_a_gateway_between_zones_is_refused_in_words(
    mesh: Mesh, zones: Instance, options: list[str], words: str
) -> None:
    name = f"wrong-{len(mesh.logs())}"
    process = mesh.east_west(name, *options)
    assert process.wait(40) in {2, 125}
    assert words in mesh.log(name)


def token(mesh: Mesh, *options: str) -> str:
    made = mesh.masche("token", "create", *options)
    assert made.returncode == 0, made.stderr
    return next(line for line in made.stdout.split() if line.startswith("masche://"))


def test_a_machine_may_only_run_gateways_between_zones_if_its_credential_says_so(mesh: Mesh, zones: Instance) -> None:
    data = mesh.folder / "g"
    joined = mesh.masche("join", "--machine", "guest", "--zone", "z", data=data, stdin=token(mesh, "-n", "shop"))
    assert joined.returncode == 0, joined.stderr
    refused = mesh.east_west("guest", data=data)
    assert refused.wait(40) == 125
    assert "may run workloads of shop, not of the namespace masche-system" in mesh.log("guest")


def test_what_runs_on_a_machine_is_in_the_zone_with_which_it_joined(mesh: Mesh, zones: Instance) -> None:
    data = mesh.folder / "h"
    given = token(mesh, "-n", "shop", "-n", "masche-system")
    joined = mesh.masche("join", "--machine", "host", "--zone", "z", data=data, stdin=given)
    assert joined.returncode == 0, joined.stderr
    process = mesh.east_west("host", data=data)
    assert [each.zone for each in until(lambda: carriers(mesh), "the gateway serves")] == ["z"]
    process.terminate()
    assert process.wait(40) == 0


def test_a_gateway_between_zones_is_in_a_zone(mesh: Mesh, tmp_path: Path) -> None:
    joined = mesh.masche("join", "--machine", "nowhere", data=tmp_path / "n", stdin=token(mesh, "-n", "masche-system"))
    assert joined.returncode == 0, joined.stderr
    process = mesh.east_west("nowhere", data=tmp_path / "n")
    assert process.wait(40) == 125
    assert "a gateway between zones is in a zone" in mesh.log("nowhere")
