"""What people read: resources with what became of them, every proxy, and the explanation of a call."""

import asyncio
import base64

import pytest
from msgspec.structs import replace

from control.plant import Plant, deny, service, sidecar
from masche.api.access import TokenRequest
from masche.api.explaining import WhyRequest
from masche.api.plane import Fault, PlaneError
from masche.link.messages import CertificateReport, ProxyReport, Report
from masche.model.refs import Kind, Name, Ref
from masche.model.vantage import Placement

WEB = Ref(Kind.SERVICE, "shop", "web")
POLICY = """---
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: fast, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  timeouts: {request: 3s}
"""
PASSWORD = base64.b64encode(b"hunter2").decode()
SECRET = f"""---
apiVersion: v1
kind: Secret
metadata: {{name: key, namespace: shop}}
type: kubernetes.io/tls
data: {{tls.crt: {PASSWORD}, tls.key: {PASSWORD}}}
"""


async def test_a_resource_is_read_with_its_revisions(mesh: Plant) -> None:
    first = await mesh.write(service("web"))
    second = await mesh.write(service("web", 81))
    item = await mesh.plane.get(WEB)
    assert (item.created_revision, item.revision) == (first.revision, second.revision)
    assert item.manifest["spec"]["ports"][0]["port"] == 81


async def test_what_is_missing_is_said_with_what_there_is(mesh: Plant) -> None:
    await mesh.write(service("orders"))
    with pytest.raises(PlaneError) as caught:
        await mesh.plane.get(WEB)
    assert caught.value.fault is Fault.NOT_FOUND
    assert "shop/orders" in caught.value.fix


async def test_a_secret_shows_its_keys_and_never_its_values(mesh: Plant) -> None:
    await mesh.write(SECRET)
    for item in (
        await mesh.plane.get(Ref(Kind.SECRET, "shop", "key")),
        (await mesh.plane.list(Kind.SECRET, namespace=None, labels={})).items[0],
    ):
        assert PASSWORD not in str(item.manifest)
        assert "tls.key" in str(item.manifest)


async def test_the_mesh_config_is_there_even_when_nobody_wrote_it(mesh: Plant) -> None:
    listed = await mesh.plane.list(Kind.MESH_CONFIG, namespace=None, labels={})
    assert [str(item.ref) for item in listed.items] == ["MeshConfig/default"]


async def test_a_service_says_what_is_in_effect_and_which_policy_said_so(mesh: Plant) -> None:
    await mesh.write(service("web") + POLICY)
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"))
        described = await mesh.plane.describe(WEB)
    effective = {each.field: (each.value, each.origin) for each in described.effective}
    assert effective["timeouts.request"] == ("3 s", "TrafficPolicy/shop/fast spec.timeouts.request")
    assert effective["timeouts.connect"][1] == "default"
    assert [(each.workload, each.health, each.is_mtls) for each in described.endpoints] == [
        ("shop/web-1", "healthy", True)
    ]


async def test_a_policy_says_what_of_it_no_proxy_carries_out(mesh: Plant) -> None:
    await mesh.write(service("web") + POLICY + "  hedging: {enabled: true}\n")
    described = await mesh.plane.describe(Ref(Kind.TRAFFIC_POLICY, "shop", "fast"))
    (remark,) = described.diagnostics
    assert (remark.where, remark.code) == ("TrafficPolicy/shop/fast spec.hedging.enabled", "not-carried-out-here")
    assert "hedging.after" in remark.fix


async def test_every_proxy_is_shown_and_one_whose_agent_is_away_too(mesh: Plant) -> None:
    await mesh.write(service("web"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web", zone="north"), sidecar("other", port=22000, phase="STARTING"))
        certificate = CertificateReport(workload=Name("shop", "web-1"), not_after=2e9, serial="ab")
        report = ProxyReport(proxy="web-1-proxy", certificates=(certificate,), exposed=(8080,), envoy_version="1.40.0")
        await mesh.parts.agents.report(agent.peer, Report(machine="m1", epoch="e", sequence=1, proxies=(report,)))
        here = {each.workload: each for each in (await mesh.plane.status()).proxies}
        assert here["shop/web-1"].identity == "spiffe://mesh.local/ns/shop/sa/web"
        assert here["shop/web-1"].certificate_expires_at == 2e9
        assert (here["shop/web-1"].service, here["shop/web-1"].zone) == ("shop/web", "north")
        assert here["shop/web-1"].is_exposed
        assert here["shop/web-1"].envoy_version == "1.40.0"
        assert (here["shop/other"].service, here["shop/other"].state) == ("", "STARTING")
        certificates = (await mesh.plane.certificates()).certificates
        assert {each.use for each in certificates} == {"root", "control-plane", "workload"}
        assert [each.serial for each in certificates if each.use == "workload"] == ["ab"]
    mesh.parts.world.unregister("web-1-proxy")
    away = {each.workload: each for each in (await mesh.plane.status()).proxies}
    assert not away["shop/web-1"].is_connected
    assert away["shop/web-1"].machine == "m1"


LIMIT = """---
apiVersion: masche.dev/v1
kind: RateLimitPolicy
metadata: {name: calm, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  local: [{requests: 5, per: 1s, key: {type: Client}}]
"""


async def test_a_service_says_what_its_instances_take(mesh: Plant) -> None:
    await mesh.write(service("web") + LIMIT)
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"))
        described = await mesh.plane.describe(WEB)
        [policy] = (await mesh.plane.list(Kind.RATE_LIMIT_POLICY, namespace="shop", labels={})).items
    found = [(each.value, each.origin) for each in described.effective if each.field == "limit"]
    assert found == [("5 requests per 1 s, for each client", "RateLimitPolicy/shop/calm spec.local[0]")]
    assert [(each.type, each.is_true) for each in policy.conditions] == [("Accepted", True)]


async def test_a_revision_that_is_not_there_yet_is_pending(mesh: Plant) -> None:
    rollout = await mesh.plane.progress(1000)
    assert (rollout.state, rollout.is_compiled) == ("pending", False)


async def test_the_picture_has_services_their_instances_and_who_has_no_service(mesh: Plant) -> None:
    await mesh.write(service("web") + service("idle") + service("web-v2", app="web"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"), sidecar("load-1", app="load", port=22000))
        picture = await mesh.plane.graph(window=5)
    nodes = {node.id: node for node in picture.nodes}
    assert {key: str(node.kind) for key, node in nodes.items()}["shop/load"] == "client"
    assert [each.workload for each in nodes["shop/web"].workloads] == ["shop/web-1"]
    assert nodes["shop/idle"].workloads == ()


async def test_check_finds_nothing_wrong_with_an_empty_mesh(mesh: Plant) -> None:
    await mesh.parts.world.synced.wait()
    assert {str(each.level) for each in (await mesh.plane.check()).findings} == {"ok"}


async def test_check_names_what_is_risky_with_a_cure(mesh: Plant) -> None:
    await mesh.write("""---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: loose, namespace: shop}
spec: {mtls: {mode: PERMISSIVE}}
""")
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web", phase="UNHEALTHY", reason="connection refused"))
        found = {each.code: each for each in (await mesh.plane.check()).findings if str(each.level) != "ok"}
    assert {"mtls", "health", "proxies"} <= set(found)
    assert "shop/web: connection refused" in found["health"].message
    assert all(each.fix for each in found.values())


async def test_an_envoy_that_does_not_answer_its_agent_is_said_whatever_its_application_says(mesh: Plant) -> None:
    async def seen(sequence: int, **report: bool) -> tuple[set[str], str]:
        reports = tuple(ProxyReport(proxy=f"{name}-proxy", **report) for name in ("web", "new", "grpc"))
        message = Report(machine="m1", epoch="e", sequence=sequence, proxies=reports)
        await mesh.parts.agents.report(agent.peer, message)
        found = {each.code: str(each.level) for each in (await mesh.plane.check()).findings}
        silent = [each for each in (await mesh.plane.status()).proxies if each.is_silent]
        assert all("does not answer" in each.last_error for each in silent)
        return {each.workload for each in silent}, found["silent"]

    async with mesh.agent() as agent:
        library = replace(sidecar("grpc", port=22001), placement=Placement.LIBRARY)
        await agent.enrols(sidecar("web"), sidecar("new", port=22000, phase="STARTING"), library)
        assert await seen(1) == ({"shop/web"}, "error"), "one that starts does not answer yet; the third has no Envoy"
        assert await seen(2, is_live=True) == (set(), "ok")


async def test_a_service_that_leads_to_a_port_that_nobody_has_is_said_wherever_one_looks(mesh: Plant) -> None:
    elsewhere = service("orders").replace("targetPort: http", "targetPort: 5999")
    assert "5999" in elsewhere
    await mesh.write(service("web") + elsewhere)
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"), sidecar("orders-1", app="orders", port=22000))
        described = await mesh.plane.describe(Ref(Kind.SERVICE, "shop", "orders"))
        found = {each.code: each for each in (await mesh.plane.check()).findings}
        answer = await ask(mesh, "web.shop", "orders")
    (remark,) = described.diagnostics
    assert remark.code == "target-port-missing"
    assert "leads to port 5999, and shop/orders-1" in remark.why
    assert (str(found["resources"].level), remark.why in found["resources"].message) == ("warning", True)
    assert str(answer.verdict) == "no-endpoint"
    assert remark.why in answer.steps[-1].text


# -- asking -----------------------------------------------------------------------------------------------------------


async def ask(mesh: Plant, source: str, destination: str, path: str = "/", method: str = "GET"):
    return await mesh.plane.why(WhyRequest(source=source, destination=destination, path=path, method=method))


@pytest.mark.parametrize("destination", ["orders", "orders.shop", "shop/orders", "orders:80", "http://orders/"])
@pytest.mark.parametrize("source", ["web.shop", "shop/web-1", "shop/web"])
async def test_a_call_is_explained_whoever_and_however_it_is_named(mesh: Plant, source: str, destination: str) -> None:
    await mesh.write(service("web") + service("orders"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"), sidecar("orders-1", app="orders", port=22000))
        answer = await ask(mesh, source, destination)
    assert str(answer.verdict) == "allowed"
    assert answer.destination == "shop/orders:80"
    assert answer.source == "shop/web-1"


async def test_a_denial_names_its_rule(mesh: Plant) -> None:
    await mesh.write(service("web") + service("orders") + deny("no-admin", "orders"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"), sidecar("orders-1", app="orders", port=22000))
        answer = await ask(mesh, "shop/web", "http://orders/admin")
        allowed = await ask(mesh, "shop/web", "http://orders/")
    assert (str(answer.verdict), answer.status) == ("denied", 403)
    assert "no-admin" in answer.deciding_rule
    assert str(allowed.verdict) == "allowed"


async def test_a_caller_that_does_not_run_is_explained_as_it_would_run(mesh: Plant) -> None:
    await mesh.write(service("orders"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("orders-1", app="orders"))
        answer = await ask(mesh, "shop/web", "orders")
    assert str(answer.verdict) == "allowed"
    assert answer.source == "shop/web (does not run now)"


async def test_a_caller_that_cannot_be_is_said_with_those_that_are(mesh: Plant) -> None:
    await mesh.write(service("web"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"))
        with pytest.raises(PlaneError) as caught:
            await ask(mesh, "shop/No Body", "web")
    assert caught.value.fault is Fault.NOT_FOUND
    assert "shop/web" in caught.value.fix


# -- tokens and machines ----------------------------------------------------------------------------------------------


async def test_tokens_made_at_the_same_time_are_not_mixed_up(mesh: Plant) -> None:
    wanted = [TokenRequest(namespaces=(f"ns-{number}",), ttl=60.0) for number in range(8)]
    made = await asyncio.gather(*(mesh.plane.create_token(each) for each in wanted))
    assert [each.token.namespaces for each in made] == [each.namespaces for each in wanted]
    assert len({each.token.id for each in made}) == 8


async def test_the_control_planes_own_machine_is_listed_while_its_agent_runs(mesh: Plant) -> None:
    async with mesh.agent("here") as agent:
        await agent.enrols(sidecar("web"))
        [machine] = (await mesh.plane.machines()).machines
    assert (machine.machine, machine.is_connected, machine.workloads) == ("here", True, 1)
    assert (await mesh.plane.machines()).machines == ()
