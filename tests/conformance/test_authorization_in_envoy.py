"""What Istio's suite asks of authorization, asked of real Envoys: with policies from the start, and added live.

A request that may not pass is answered 403, by gRPC PERMISSION_DENIED (7), and a connection of bytes is closed.
"""

from collections.abc import Iterator

import pytest
import yaml

from conformance.cases import OWN, Case, a_mesh, read_groups
from live.client import Answer, grpc, http1, http2, tcp
from live.mesh import Live, here
from masche.identity.spiffe import SpiffeId, WorkloadIdentity
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.yaml import load_many

PORTS = {"http": 80, "http2": 85, "grpc": 7070, "tcp": 9090, "https": 443}
PERMISSION_DENIED = "7"
CALLERS = {Name("ns1", "a-1"), Name("ns2", "a-1"), Name("ns2", "b-1")}
GROUPS = [*read_groups(OWN / "authz.yaml"), *read_groups(OWN / "authz-more.yaml")]


@pytest.mark.parametrize("group", [pytest.param(group, id=group["id"]) for group in GROUPS])
def test_envoy_judges_as_istio_does(group: Case, live: Live):
    live.load(with_policies(()), CALLERS)
    open_to_all = [*faults(live, group, is_guarded=False)]
    live.change(with_policies(group["policies"]))
    added = [*faults(live, group, is_guarded=True)]
    live.load(with_policies(group["policies"]), CALLERS)
    from_start = [*faults(live, group, is_guarded=True)]
    assert (open_to_all, added, from_start) == ([], [], [])


def with_policies(policies: tuple[Case, ...]) -> Mesh:
    """The topology, with policies in the namespace of the target, or of the whole mesh when they are named so."""
    files = [("topology", here((OWN / "authz-topology.yaml").read_text()))]
    for index, policy in enumerate(policies):
        namespace = policy.get("namespace") or ("masche-system" if policy["name"].endswith("-system") else "ns1")
        document = {
            "apiVersion": "security.istio.io/v1",
            "kind": policy["kind"],
            "metadata": {"name": policy["name"], "namespace": namespace},
            "spec": policy.get("spec", {}),
        }
        files.append((f"policy {index}", yaml.safe_dump(document)))
    return a_mesh(load_many(files))


def faults(live: Live, group: Case, *, is_guarded: bool) -> Iterator[str]:
    for case in group["cases"]:
        for port in case["to_ports"]:
            answer = ask(live, case, port)
            is_allowed = case["allow"] or not is_guarded
            if not judged(answer, port, is_allowed=is_allowed):
                yield f"{case} on {port}: {'should pass' if is_allowed else 'should be denied'}, got {answer}"
            elif answer.echo and port != "tcp" and answer.echo["peer"] != case["from"]:
                yield f"{case} on {port}: the callee saw {answer.echo['peer']}"


def ask(live: Live, case: Case, port: str) -> Answer:
    role = SpiffeId.parse(case["from"]).role
    assert isinstance(role, WorkloadIdentity)
    standing = live.standing[Name(role.namespace, f"{role.service_account}-1")]
    way = standing.way("b.ns1", PORTS[port])
    assert way
    to, host = standing.local(way.service), case.get("host", "b.ns1")
    headers = [(name, str(value)) for name, value in case.get("headers", {}).items()]
    match port:
        case "tcp" | "https":
            return tcp(to)
        case "grpc":
            return grpc(to, "/proto.EchoTestService/Echo", host, headers)
        case "http2":
            return http2(to, case.get("method", "GET"), case.get("path", "/"), host, headers)
        case _:
            return http1(to, case.get("method", "GET"), case.get("path", "/"), host, headers)


def judged(answer: Answer, port: str, *, is_allowed: bool) -> bool:
    match port:
        case "grpc":
            return answer.grpc_status == ("0" if is_allowed else PERMISSION_DENIED)
        case "tcp" | "https":
            return bool(answer.echo) is is_allowed
        case _:
            return answer.status == (200 if is_allowed else 403)
