"""What a gateway between zones is given, and who may register as one."""

import msgspec
import pytest

from control.plant import service
from control.test_compilation import put, settled, workload
from masche.compiler.envoy import tunnels
from masche.compiler.vantage import stand
from masche.control.compilation import Compilation, Place
from masche.control.enrolment import EnrolmentError, enrol
from masche.link.messages import Occupant, ProxyState, State, WorkloadPort
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.vantage import Placement, Seat, SeatPort
from masche.wire import framing
from masche.wire.messages import decode
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.wanted import Wanted

CARRIER = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {name: east-west-1, namespace: masche-system, labels: {masche.dev/gateway: east-west}}
spec:
  address: 127.0.0.1
  serviceAccount: east-west
  zone: c
  placement: gateway
  ports: [{port: 15008, meshPort: 22008}]
"""
NAME = Name("masche-system", "east-west-1")


def place(mesh: Mesh, bind: str = "127.0.0.1") -> Place:
    ports = (SeatPort(name="tunnels", app_port=15008, mesh_port=22008),)
    return stand(mesh, mesh.workloads[NAME], placement=Placement.GATEWAY), Seat(workload=NAME, bind=bind, ports=ports)


def wanted(compilation: Compilation, bind: str = "127.0.0.1") -> Wanted:
    return compilation.wanted((place(compilation.mesh, bind),))


def domains(table: Wanted, name: str = tunnels.LOOPBACK) -> set[str]:
    body = decode("envoy.config.route.v3.RouteConfiguration", framing.message_of(table.table(ROUTES)[name]))
    return {domain for host in body.get("virtual_hosts", ()) for domain in host["domains"]}


def test_a_gateway_holds_a_listener_and_a_way_to_the_instances_of_the_mesh_and_nothing_else() -> None:
    found = wanted(settled(service("web") + workload("web-1", "web") + CARRIER))
    assert set(found.table(LISTENER)) == {"inbound/15008"}
    assert set(found.table(CLUSTER)) == {"inbound/tunnels"}
    assert set(found.table(ENDPOINTS)) == set()
    assert domains(found) == {"127.0.0.1:21000"}


def test_a_gateway_that_other_machines_reach_leads_nobody_to_its_loopback() -> None:
    compilation = settled(workload("web-1", "web") + workload("web-2", "web", address="10.0.0.2") + CARRIER)
    listener = wanted(compilation, bind="10.0.0.9").table(LISTENER)["inbound/15008"]
    assert b"tunnels/loopback" not in listener.frame
    assert domains(wanted(compilation), tunnels.NETWORK) == {"10.0.0.2:21000"}


@pytest.mark.parametrize("endpoints_alone", [True, False])
def test_where_a_gateway_leads_follows_the_instances(endpoints_alone: bool) -> None:
    compilation = settled(service("web") + workload("web-1", "web") + CARRIER)
    before = wanted(compilation)
    compilation.settle(put(compilation.mesh, workload("web-2", "web", 21001)), endpoints_alone=endpoints_alone)
    after = wanted(compilation)
    assert domains(after) == {"127.0.0.1:21000", "127.0.0.1:21001"}
    assert after.table(LISTENER) is before.table(LISTENER)
    assert after.table(CLUSTER) is before.table(CLUSTER)


def test_a_change_that_moves_no_instance_tells_a_gateway_nothing() -> None:
    compilation = settled(service("web") + workload("web-1", "web") + CARRIER)
    before = wanted(compilation)
    compilation.settle(put(compilation.mesh, service("web", port=81)), endpoints_alone=False)
    assert wanted(compilation) is before


# -- registration ------------------------------------------------------------------------------------------------------


def state(namespace: str = "masche-system", account: str = "east-west") -> ProxyState:
    name = Name(namespace, "east-west-1")
    occupant = Occupant(
        seat=Seat(workload=name, bind="127.0.0.1", ports=(SeatPort(name="tcp", app_port=15008, mesh_port=22008),)),
        service_account=account,
        labels={"masche.dev/gateway": "east-west"},
        zone="c",
        address="127.0.0.1",
        ports=(WorkloadPort(name="tcp", port=15008, mesh_port=22008),),
        state=State(phase="READY"),
    )
    return ProxyState(proxy="gateway~east-west-1", placement=Placement.GATEWAY, occupants=(occupant,))


def test_a_gateway_between_zones_registers_as_one_and_makes_no_service() -> None:
    found = enrol(Mesh(), state(), origin=("m", ""), is_alive=lambda _: False)
    assert [str(edit.resource.ref) for edit in found.edits] == ["Workload/masche-system/east-west-1"]


@pytest.mark.parametrize("wrong", [{"namespace": "shop"}, {"account": "web"}])
def test_nobody_registers_as_a_gateway_between_zones_elsewhere_or_as_somebody_else(wrong: dict[str, str]) -> None:
    with pytest.raises(EnrolmentError, match="is of the namespace masche-system and runs as east-west") as caught:
        enrol(Mesh(), state(**wrong), origin=("m", ""), is_alive=lambda _: False)
    assert "masche gateway --east-west" in caught.value.fix


def test_a_workload_cannot_pass_for_a_gateway_by_its_labels() -> None:
    sneaky = state(namespace="shop", account="east-west")
    sneaky = msgspec.structs.replace(sneaky, placement=Placement.SIDECAR)
    with pytest.raises(EnrolmentError):
        enrol(Mesh(), sneaky, origin=("m", ""), is_alive=lambda _: False)
