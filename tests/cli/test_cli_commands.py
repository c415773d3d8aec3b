"""What each command says and with which code it ends, for good input."""

import json
import time
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import Result
from runner_types import Masche

from masche.api import access, explaining
from masche.api import messages as m
from masche.api import traffic as t
from masche.cli import traffic
from masche.cli.exits import Exit
from masche.model.diagnostic import Diagnostic
from masche.model.refs import Kind, Ref
from masche.testing.api import RunningApi
from masche.testing.plane import NO_FACTS, FakePlane

ORDERS = Ref(Kind.SERVICE, "shop", "orders")
RATE = t.Rate(requests_per_second=12.5, success=0.99995, p50_ms=1.2, p95_ms=3.4, p99_ms=5.6)
REJECTION = m.Rejection(type_url="t/RouteConfiguration", name="outbound/shop/orders/80", words="regex: missing ]")

pytestmark = pytest.mark.usefixtures("api")


def proxy(workload: str, **fields: object) -> m.ProxyStatus:
    known: dict[str, object] = {
        "proxy": f"sidecar~{workload}",
        "workload": workload,
        "service": "shop/orders",
        "placement": "sidecar",
        "machine": "m1",
        "zone": "",
        "identity": "spiffe://mesh.local/ns/shop/sa/orders",
        "certificate_expires_at": time.time() + 86000,
        "state": "READY",
        "is_connected": True,
        "is_in_sync": True,
        "revision": 7,
    }
    return m.ProxyStatus(**(known | fields))  # type: ignore[arg-type]  # a table of keywords


def rollout(state: m.RolloutState, **fields: tuple[m.RolloutProxy, ...]) -> m.Rollout:
    return m.Rollout(revision=1, state=state, **fields)  # type: ignore[arg-type]  # a table of keywords


def one(workload: str, **fields: object) -> m.RolloutProxy:
    return m.RolloutProxy(proxy=f"sidecar~{workload}", workload=workload, **fields)  # type: ignore[arg-type]  # likewise


def ended(result: Result, code: Exit) -> str:
    assert result.exit_code == code, result.output
    return result.stdout


def test_apply_waits_until_it_is_live(masche: Masche, plane: FakePlane, orders: str):
    plane.rollouts = [
        rollout(m.RolloutState.PENDING, pending=(one("shop/web-1"),)),
        rollout(m.RolloutState.LIVE, live=(one("shop/web-1"),), absent=(one("shop/web-2"),)),
    ]
    said = ended(masche("apply", "-f", orders), Exit.OK)
    assert said.splitlines() == [
        "Service/shop/orders created",
        "absent  shop/web-2 (sidecar~shop/web-2)",
        "live  shop/web-1 (sidecar~shop/web-1)",
        "revision 1 is live on 1 proxy (1 absent)",
    ]


def test_apply_prints_the_words_of_a_proxy_that_rejected_and_ends_with_3(masche: Masche, plane: FakePlane, orders: str):
    plane.rollouts = [rollout(m.RolloutState.REJECTED, rejected=(one("shop/web-1", rejections=(REJECTION,)),))]
    said = ended(masche("apply", "-f", orders), Exit.REJECTED)
    assert "    outbound/shop/orders/80: regex: missing ]" in said


def test_apply_ends_with_4_when_it_is_pending_at_the_timeout(masche: Masche, plane: FakePlane, orders: str):
    plane.rollouts = [rollout(m.RolloutState.PENDING, pending=(one("shop/web-1", waiting_for="RDS x"),))]
    said = ended(masche("apply", "-f", orders, "--timeout", "300ms"), Exit.PENDING)
    assert "    RDS x" in said


def test_apply_without_waiting_returns_once_it_is_stored(masche: Masche, plane: FakePlane, orders: str):
    plane.rollouts = [rollout(m.RolloutState.PENDING)]
    assert ended(masche("apply", "-f", orders, "--no-wait"), Exit.OK) == "Service/shop/orders created\n"
    assert ORDERS in plane.items


def test_apply_says_the_blast_radius_of_a_dry_run_and_stores_nothing(masche: Masche, plane: FakePlane, orders: str):
    plane.impact = (m.Impact(workload="shop/web-1", proxy="p", sentences=("route x sends 10 % to y",)),)
    said = ended(masche("apply", "-f", orders, "--dry-run"), Exit.OK)
    assert "Service/shop/orders created (dry run)" in said
    assert "    route x sends 10 % to y" in said
    assert plane.items == {}


def test_apply_reads_folders_and_standard_input(masche: Masche, plane: FakePlane, orders: str):
    ended(masche("apply", "-f", str(Path(orders).parent)), Exit.OK)
    text = Path(orders).read_text().replace("name: orders", "name: stock")
    ended(masche("apply", "-f", "-", stdin=text), Exit.OK)
    assert {ref.name for ref in plane.items} == {"orders", "stock"}


def test_apply_prints_data_for_programs(masche: Masche, orders: str):
    printed = json.loads(ended(masche("apply", "-f", orders, "-o", "json"), Exit.OK))
    assert (printed["applied"]["revision"], printed["rollout"]["state"]) == (1, "live")


def test_delete_takes_names_and_files(masche: Masche, plane: FakePlane, orders: str):
    masche("apply", "-f", orders)
    assert "Service/shop/orders deleted" in ended(masche("delete", "svc", "orders", "-n", "shop"), Exit.OK)
    masche("apply", "-f", orders)
    assert "deleted (dry run)" in ended(masche("delete", "Service/shop/orders", "--dry-run"), Exit.OK)
    ended(masche("delete", "-f", orders), Exit.OK)
    assert plane.items == {}


def test_diff_ends_with_9_when_something_would_change(masche: Masche, orders: str):
    said = ended(masche("diff", "-f", orders), Exit.NO)
    assert said.startswith("Service/shop/orders would be created\n+")
    masche("apply", "-f", orders)
    assert ended(masche("diff", "-f", orders), Exit.OK) == ""


def test_get_draws_a_table_and_prints_yaml_that_can_be_applied_again(masche: Masche, orders: str):
    masche("apply", "-f", orders)
    said = ended(masche("get", "services", "-n", "shop"), Exit.OK)
    assert [line.split() for line in said.splitlines()] == [
        ["NAME", "PORTS", "SELECTOR", "REVISION", "STATUS"],
        ["orders", "http:80", "app=orders", "1"],
    ]
    assert said.splitlines()[0].startswith("NAME")
    printed = yaml.safe_load(ended(masche("get", "svc/orders", "-n", "shop", "-o", "yaml"), Exit.OK))
    assert printed == yaml.safe_load(Path(orders).read_text())
    listed = json.loads(ended(masche("get", "svc", "-A", "-l", "tier=back", "-o", "json"), Exit.OK))
    assert [item["metadata"]["name"] for item in listed["items"]] == ["orders"]
    assert "shop" in ended(masche("get", "svc", "-A"), Exit.OK)


def test_get_says_when_there_is_nothing(masche: Masche):
    result = masche("get", "svc")
    assert (ended(result, Exit.OK), result.stderr) == ("", "no Service\n")


def test_every_kind_has_columns_that_survive_a_manifest_without_fields():
    from masche.cli.columns import COLUMNS

    assert set(COLUMNS) == set(Kind)
    for columns in COLUMNS.values():
        for broken in ({}, {"spec": None}, {"spec": []}, {"spec": {"ports": [None], "rules": 1}, "data": 3}):
            assert all(isinstance(cell(broken), str) for _, cell in columns)


def test_describe_shows_conditions_findings_effective_policy_and_rejections(
    masche: Masche, plane: FakePlane, orders: str
):
    plane.description = {
        "conditions": (m.Condition(type="Accepted", is_true=False, reason="NoSuchBackend"),),
        "diagnostics": (Diagnostic(code="backend-missing", where="x", why="y", fix="z", ref=ORDERS),),
        "effective": (m.Effective(port=80, field="timeouts.request", value="15s", origin="TrafficPolicy/shop/slow"),),
        "endpoints": (
            m.EndpointRow(
                port=80, workload="shop/o-1", address="10.0.0.1:15006", zone="a", health="healthy", weight=100
            ),
        ),
        "rejected": (m.ProxyRejection(proxy="p", workload="shop/web-1", rejection=REJECTION),),
    }
    masche("apply", "-f", orders)
    said = ended(masche("describe", "svc", "orders", "-n", "shop"), Exit.OK)
    for part in (
        "not Accepted: NoSuchBackend",
        "[backend-missing]",
        "TrafficPolicy/shop/slow",
        "missing ]",
        "10.0.0.1",
    ):
        assert part in said


def test_describe_says_of_what_nobody_wrote_that_it_is_built_in(masche: Masche, plane: FakePlane):
    ref = Ref(Kind.MESH_CONFIG, "", "default")
    plane.items[ref] = m.Item(ref=ref, revision=0, created_revision=0, manifest={"kind": "MeshConfig"})
    assert "nobody has written it" in ended(masche("describe", "mc", "default"), Exit.OK)


def test_describe_says_where_a_workload_runs(masche: Masche, plane: FakePlane):
    ref = Ref(Kind.WORKLOAD, "shop", "web-1")
    manifest = {
        "kind": "Workload",
        "spec": {"address": "10.1.0.1", "placement": "node"},
        "status": {"state": "READY", "machine": "m1", "proxy": "node~m1"},
    }
    item = m.Item(ref=ref, revision=2, created_revision=1, manifest=manifest)
    plane.items[ref] = item
    said = ended(masche("describe", "workload", "web-1", "-n", "shop"), Exit.OK)
    assert "READY on machine m1, served by node~m1 (placement node)" in said
    listed = ended(masche("get", "workload", "web-1", "-n", "shop"), Exit.OK)
    assert "node" in listed
    assert "m1" in listed


def test_status_shows_every_proxy_and_repeats_envoys_words(masche: Masche, plane: FakePlane):
    plane.mesh_status = m.MeshStatus(
        plane=NO_FACTS,
        proxies=(
            proxy("shop/a"),
            proxy("shop/b", is_in_sync=False, revision=6),
            proxy("shop/c", rejections=(REJECTION,)),
            proxy("shop/d", is_connected=False, is_exposed=True, state="UNHEALTHY", last_error="connection refused"),
            proxy("shop/e", is_silent=True),
        ),
    )
    said = ended(masche("status", "--wide"), Exit.OK)
    for part in (
        "in sync",
        "behind (at 6)",
        "rejected 1",
        "absent",
        "regex: missing ]",
        "connection refused",
        "exposed",
        "silent",
    ):
        assert part in said
    printed = json.loads(ended(masche("status", "-o", "json"), Exit.OK))
    assert printed["proxies"][2]["rejections"][0]["words"] == "regex: missing ]"


def test_status_says_whom_a_node_serves(masche: Masche, plane: FakePlane):
    served = [proxy(f"shop/{name}", proxy="node~m1", placement="node") for name in ("a", "b")]
    plane.mesh_status = m.MeshStatus(plane=NO_FACTS, proxies=(*served, proxy("shop/c")))
    said = ended(masche("status"), Exit.OK)
    assert "node~m1 on m1 serves 2 workloads: shop/a, shop/b" in said
    assert "shop/c" not in said.partition("node~m1 on m1")[2]


def test_calls_within_a_machine_are_told_from_those_by_mutual_tls():
    ways = {t.Way.TLS: "mTLS", t.Way.LOCAL: "local", t.Way.MIXED: "mTLS, local"}
    for way, word in ways.items():
        edge = t.Edge(source="shop/web", destination="shop/orders", port=80, protocol="http", rate=RATE, way=way)
        assert str(traffic._transport(edge)) == word


def test_why_draws_the_chain_and_ends_with_9_when_the_call_is_denied(masche: Masche, plane: FakePlane):
    plane.explanation = explaining.Explanation(
        verdict=explaining.Verdict.DENIED,
        summary="web may not delete",
        source="shop/web",
        destination="shop/orders:80",
        status=403,
        deciding_rule="shop/allow-read rules[0]",
        steps=(
            explaining.Step(
                stage="route", is_passed=True, text="matches rule 1", origin="HTTPRoute/shop/orders spec.rules[0]"
            ),
            explaining.Step(
                stage="policy", is_passed=False, text="no ALLOW policy matches", details=("shop/allow-read",)
            ),
        ),
    )
    said = ended(masche("why", "shop/web", "orders", "--method", "DELETE", "--header", "x=1", "--port", "80"), Exit.NO)
    for part in (
        "denied (status 403)",
        "✓ route",
        "✗ policy",
        "decided by shop/allow-read rules[0]",
        "HTTPRoute/shop/orders",
    ):
        assert part in said
    plane.explanation = None
    ended(masche("why", "shop/web", "orders"), Exit.OK)


def orders_edge(**fields: object) -> t.Edge:
    known: dict[str, object] = {
        "source": "shop/web",
        "destination": "shop/orders",
        "port": 80,
        "protocol": "http",
        "rate": RATE,
        "denied_per_second": 0.5,
    }
    return t.Edge(**(known | fields))  # type: ignore[arg-type]  # a table of keywords


def test_top_prints_a_snapshot_of_every_edge(masche: Masche, plane: FakePlane):
    plane.traffic = t.Edges(at=1.0, window=10.0, edges=(orders_edge(),))
    lines = ended(masche("top", "--once"), Exit.OK).splitlines()
    assert lines[1].split() == ["shop/web", "shop/orders", "80", "12.5", "99.99%", "1.2", "3.4", "5.6", "0.5", "mTLS"]


def test_top_does_not_say_that_calls_took_no_time_whose_times_nobody_heard(masche: Masche, plane: FakePlane):
    """Of a job that has ended the calls are known, and seldom how long they took."""
    untimed = t.Rate(requests_per_second=0.1, success=1.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
    plane.traffic = t.Edges(at=1.0, window=10.0, edges=(orders_edge(rate=untimed),))
    lines = ended(masche("top", "--once"), Exit.OK).splitlines()
    assert lines[1].split() == ["shop/web", "shop/orders", "80", "0.1", "100%", "-", "-", "-", "0.5", "mTLS"]


def test_top_shows_how_each_instance_stands_and_why(masche: Masche, plane: FakePlane):
    silent = t.Rate(requests_per_second=0.0, success=1.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
    near = t.CallerView(zone="a", weight=100, latency_ms=3.0, service_ms=2.0, network_ms=1.0)
    far = t.CallerView(zone="b", weight=12, latency_ms=30.0, service_ms=2.0, network_ms=28.0, reason="the way is slow")
    ends = (
        t.EdgeEndpoint(workload="shop/orders-1", zone="a", rate=RATE, weight=12, callers=(near, far)),
        t.EdgeEndpoint(workload="shop/orders-2", zone="b", rate=RATE, weight=80, callers=(near,)),
        t.EdgeEndpoint(
            workload="shop/orders-3",
            zone="c",
            rate=silent,
            is_ejected=True,
            state=t.InstanceState.EJECTED,
            until_at=time.time() + 5,
            reason="5 errors in a row",
        ),
    )
    plane.traffic = t.Edges(at=1.0, window=10.0, edges=(orders_edge(endpoints=ends),))
    lines = ended(masche("top", "--once", "--instances"), Exit.OK).splitlines()
    rows = [line.rstrip().split(maxsplit=9) for line in lines[2:]]
    assert rows[0] == ["shop/orders-1", "a", "12.5", "99.99%", "1.2", "5.6", "12%", "ADMITTED"]
    assert rows[2] == ["callers", "in", "b", "~30.0", "28.0", "2.0", "12%", "ADMITTED:", "the", "way is slow"]
    assert rows[3] == ["shop/orders-2", "b", "12.5", "99.99%", "1.2", "5.6", "1.0", "2.0", "80%", "ADMITTED"]
    assert rows[4][:8] == ["shop/orders-3", "c", "0.0", "-", "-", "-", "100%", "EJECTED"]
    assert rows[4][8] == "until"
    assert rows[4][9].endswith(": 5 errors in a row")
    printed = json.loads(ended(masche("top", "--instances", "-o", "json"), Exit.OK))
    assert printed["edges"][0]["endpoints"][2]["state"] == "EJECTED"


def test_top_says_first_that_a_service_has_no_healthy_instance(masche: Masche, plane: FakePlane):
    panic = "shop/orders:80: no healthy instance; calls go to all 2 of them"
    plane.traffic = t.Edges(at=1.0, window=10.0, edges=(orders_edge(panic=panic), orders_edge(panic=panic)))
    assert ended(masche("top", "--once"), Exit.OK).splitlines()[0] == panic
    assert ended(masche("top", "--once", "--instances"), Exit.OK).splitlines()[2].rstrip().endswith("PANIC")


def test_top_shows_the_links_between_zones_and_what_is_steered(masche: Masche, plane: FakePlane):
    direct = t.ZoneLink(
        source="a", destination="b", rate=RATE, share=0.25, network_ms=201.0, usual_ms=2.1, lost=0.015, is_bad=True
    )
    around = t.ZoneLink(source="a", destination="b", via="c", rate=RATE, share=0.75, network_ms=5.0)
    shift = t.ZoneShift(
        service="shop/orders:80",
        caller_zone="a",
        shares=(t.ZoneShare(zone="b", share=0.25), t.ZoneShare(zone="b", via="c", share=0.75)),
    )
    plane.between = t.Zones(at=1.0, window=10.0, links=(direct, around), shifts=(shift,))
    lines = [line.split() for line in ended(masche("top", "--zones", "--once"), Exit.OK).splitlines()]
    assert lines[1] == ["a", "b", "12.5", "25.00%", "99.99%", "1.2", "5.6", "201.0", "2.1", "1.50%", "bad"]
    assert lines[2] == ["a", "b", "c", "12.5", "75.00%", "99.99%", "1.2", "5.6", "5.0", "-", "-", "good"]
    assert lines[5] == ["shop/orders:80", "a", "b", "25%,", "b", "75%", "via", "c"]
    assert json.loads(ended(masche("top", "--zones", "-o", "json"), Exit.OK))["links"][1]["via"] == "c"


def test_top_shows_instances_or_zones(masche: Masche):
    assert "choose" in masche("top", "--zones", "--instances").stderr


def test_status_says_that_a_service_has_no_healthy_instance(masche: Masche, plane: FakePlane):
    panic = "shop/orders:80: no healthy instance; calls go to all 2 of them"
    plane.mesh_status = m.MeshStatus(plane=msgspec.structs.replace(NO_FACTS, panics=(panic,)), proxies=())
    assert panic in ended(masche("status"), Exit.OK).splitlines()


def test_events_are_listed_oldest_first(masche: Masche, plane: FakePlane):
    plane.happen("workload-joined", "ready after 312 ms", about="shop/orders-1")
    plane.happen("config-rejected", "regex: missing ]", severity="error")
    lines = ended(masche("events"), Exit.OK).splitlines()
    assert "workload-joined shop/orders-1: ready after 312 ms" in lines[0]
    assert "config-rejected regex: missing ]" in lines[1]
    assert len(json.loads(ended(masche("events", "--after", "1", "-o", "json"), Exit.OK))) == 1


def test_events_are_chosen_by_kind_and_by_what_they_are_about(masche: Masche, plane: FakePlane):
    plane.happen("ejected", "shop/orders-1 is cut off", about="shop/orders-1")
    plane.happen("zone-moved", "30 % of zone a moved", about="shop/orders:80")
    plane.happen("readmitted", "shop/orders-1 is back", about="shop/orders-1")

    def chosen(*words: str) -> list[str]:
        return [each["kind"] for each in json.loads(ended(masche("events", *words, "-o", "json"), Exit.OK))]

    assert chosen("--kind", "ejected", "--kind", "readmitted") == ["ejected", "readmitted"]
    assert chosen("--about", "shop/orders-1") == ["ejected", "readmitted"]
    assert chosen("--about", "orders-1", "--kind", "ejected") == ["ejected"]
    assert chosen("--about", "shop/orders") == ["zone-moved"]
    assert chosen("--about", "orders-2") == []
    nothing = masche("events", "--kind", "ejection")
    assert nothing.stderr == "nothing of that among 3 events, which are ejected, readmitted, zone-moved\n"
    assert "ejected shop/orders-1 is cut off" in ended(masche("events"), Exit.OK)


def test_dashboard_prints_a_link_with_the_code_behind_the_hash(masche: Masche, api: RunningApi):
    assert ended(masche("dashboard"), Exit.OK).startswith(f"{api.listening.url}/login#")


def test_tokens_are_created_listed_and_revoked(masche: Masche):
    made = masche("token", "create", "-n", "shop", "--ttl", "5m")
    assert ended(made, Exit.OK).count("\n") == 1
    assert "good once, for 5m0s" in made.stderr
    assert "t1" in ended(masche("token", "list"), Exit.OK)
    ended(masche("token", "revoke", "t1"), Exit.OK)
    ended(masche("token", "revoke", "t1"), Exit.NOT_FOUND)


def test_certificates_and_machines_are_shown_and_machines_revoked(masche: Masche, plane: FakePlane):
    plane.issued = access.CertificateList(
        certificates=(
            access.CertificateInfo(
                use="workload",
                identity="spiffe://mesh.local/ns/shop/sa/web",
                holder="shop/web-1",
                serial="1f",
                fingerprint="ab" * 32,
                not_before_at=1.0,
                expires_at=time.time() - 60,
            ),
        )
    )
    machine = access.MachineInfo(
        machine="m1",
        namespaces=("shop",),
        service_accounts=("*",),
        joined_at=1.0,
        expires_at=time.time() + 100,
        is_connected=True,
    )
    plane.joined = access.MachineList(machines=(machine,))
    assert "expired" in ended(masche("cert", "show"), Exit.OK)
    assert "connected" in ended(masche("cert", "machines"), Exit.OK)
    ended(masche("cert", "revoke", "m1"), Exit.OK)
    assert plane.revoked == ["m1"]
    ended(masche("cert", "revoke", "m2"), Exit.NOT_FOUND)


def test_check_puts_the_worst_first_and_ends_with_9_for_an_error(masche: Masche, plane: FakePlane):
    plane.report = access.CheckReport(
        findings=(
            access.Finding(
                code="mtls", title="mutual TLS", level=access.Level.WARNING, message="shop is permissive", fix="STRICT"
            ),
            access.Finding(
                code="rejections", title="rejections", level=access.Level.ERROR, message="shop/c: missing ]", fix="look"
            ),
        )
    )
    lines = ended(masche("check"), Exit.NO).splitlines()
    assert lines[0:2] == ["✗ rejections: shop/c: missing ]", "    fix: look"]
    assert "! mutual TLS: shop is permissive" in lines
    assert any(line.startswith("✓ Envoy binary: ") for line in lines)


def test_check_without_a_control_plane_still_looks_at_this_machine(masche: Masche, api: RunningApi):
    (api.data / "api" / "address").write_text("127.0.0.1:1")
    result = masche("check")
    assert "✗ control plane: no control plane answers at http://127.0.0.1:1" in ended(result, Exit.UNREACHABLE)
    assert "✓ Envoy binary: " in result.stdout


def test_check_says_when_versions_differ_and_when_there_is_no_envoy(
    masche: Masche, plane: FakePlane, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MASCHE_ENVOY", "/nowhere/envoy")
    said = ended(masche("check"), Exit.NO)
    assert "✗ Envoy binary: " in said
    assert "the control plane 0" in said


def test_check_ends_with_0_when_there_is_no_error_and_warns_of_an_open_folder(masche: Masche, api: RunningApi):
    api.data.chmod(0o700)
    assert "✓ data folder: " in ended(masche("check"), Exit.OK)
    api.data.chmod(0o755)
    assert f"fix: chmod 700 {api.data}" in ended(masche("check"), Exit.OK)


def test_version_asks_the_control_plane_too(masche: Masche):
    printed = json.loads(ended(masche("version", "-o", "json"), Exit.OK))
    assert set(printed) == {"client", "controlPlane"}


def test_colours_are_not_printed_into_a_pipe(masche: Masche, orders: str):
    assert "\x1b" not in masche("apply", "-f", orders).output
    assert "\x1b" not in masche("status").output
