"""What the dashboard shows of instances, zones and events, in Chromium, before a control plane in memory."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from masche.api import traffic as t
from masche.api.live import frame
from masche.api.messages import MeshStatus, ProxyStatus
from masche.testing.api import RunningApi, running_api
from masche.testing.plane import NO_FACTS, FakePlane

CHROMIUM = "/usr/bin/chromium"
NOW = 1_790_000_000.0
PANIC = "shop/payment:80: no healthy instance; calls go to all 2 of them"
LONG = "shop/orders-with-a-very-long-name-abcdefghijklmnop-7f9c8d6b5-x2x4z"


def rate(per_second: float = 12.5) -> t.Rate:
    return t.Rate(requests_per_second=per_second, success=1.0, p50_ms=1.2, p95_ms=3.4, p99_ms=5.6)


def node(name: str) -> t.Node:
    return t.Node(id=f"shop/{name}", kind=t.NodeKind.SERVICE, namespace="shop", name=name, ports=(80,))


def edge(*ends: t.EdgeEndpoint) -> t.Edge:
    return t.Edge(source="shop/web", destination="shop/orders", port=80, protocol="http", rate=rate(), endpoints=ends)


def link(source: str, destination: str, network_ms: float, **more: object) -> t.ZoneLink:
    known: dict[str, object] = {"rate": rate(), "share": 0.5, "usual_ms": 2.1}
    return t.ZoneLink(source=source, destination=destination, network_ms=network_ms, **(known | more))  # type: ignore[arg-type]  # a table of keywords


@pytest.fixture
def plane() -> FakePlane:
    made = FakePlane()
    made.picture = t.Graph(revision=7, at=NOW, window=5.0, nodes=(node("orders"), node("web")), edges=())
    made.mesh_status = MeshStatus(plane=msgspec.structs.replace(NO_FACTS, panics=(PANIC,)), proxies=())
    return made


@pytest.fixture
def api(plane: FakePlane, tmp_path: Path) -> Generator[RunningApi]:
    with running_api(plane, tmp_path / "data") as running:
        yield running


@pytest.fixture
def page() -> Generator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        complaints: list[str] = []
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        yield page
        browser.close()
        assert not complaints


def shown(api: RunningApi, page: Page, plane: FakePlane, *ends: t.EdgeEndpoint) -> None:
    """Open the edge from web to orders."""
    plane.traffic = t.Edges(at=NOW, window=5.0, edges=(edge(*ends),))
    page.goto(api.client.login_link())
    page.locator('.edge[data-source="shop/web"] .plate').click()


def test_each_instance_says_what_it_gets_and_why(api: RunningApi, page: Page, plane: FakePlane):
    near = t.CallerView(zone="a", weight=100, service_ms=2.0, network_ms=1.0)
    far = t.CallerView(zone="b", weight=12, service_ms=2.0, network_ms=201.0)
    off = {"state": t.InstanceState.EJECTED, "until_at": NOW + 5, "reason": "2 callers cut it off", "is_ejected": True}
    shown(
        api,
        page,
        plane,
        t.EdgeEndpoint(workload=LONG, zone="europe-west", rate=rate(), callers=(near,)),
        t.EdgeEndpoint(workload="shop/orders-1", zone="a", rate=rate(), weight=12, callers=(near, far)),
        t.EdgeEndpoint(workload="shop/orders-2", zone="c", rate=rate(0.0), **off),  # type: ignore[arg-type]  # a table of keywords
    )
    instances = page.locator(".stand")
    expect(instances).to_have_count(3)
    expect(instances.nth(0)).to_contain_text("EJECTED until")
    expect(instances.nth(0)).to_contain_text("2 callers cut it off")
    expect(instances.nth(1)).to_contain_text("callers in b: 12 %")
    expect(instances.nth(1)).to_contain_text("network 201 ms + service 2.0 ms")
    expect(instances.nth(2)).to_contain_text("ADMITTED")
    aside, longest = page.locator("aside").bounding_box(), instances.nth(2).bounding_box()
    assert aside
    assert longest
    assert longest["x"] + longest["width"] <= aside["x"] + aside["width"], "a long name stays inside its panel"


@pytest.mark.parametrize(("number", "at_first"), [(0, 0), (1, 1), (12, 12), (40, 12)])
def test_the_worst_of_many_instances_come_first(
    api: RunningApi, page: Page, plane: FakePlane, number: int, at_first: int
):
    ends = [t.EdgeEndpoint(workload=f"shop/orders-{each}", zone="", rate=rate(), weight=100) for each in range(number)]
    if ends:
        ends[-1] = msgspec.structs.replace(ends[-1], weight=3)
    shown(api, page, plane, *ends)
    expect(page.locator("aside dl")).to_be_visible()
    expect(page.locator(".stand")).to_have_count(at_first)
    if ends:
        expect(page.locator(".stand").first).to_contain_text("3 %")
    if number > at_first:
        page.get_by_role("button", name="show 28 more").click()
        expect(page.locator(".stand")).to_have_count(number)


def test_zones_panics_and_what_happened_are_seen_at_once(api: RunningApi, page: Page, plane: FakePlane):
    plane.between = t.Zones(
        at=NOW,
        window=5.0,
        links=(link("a", "b", 201.0, is_bad=True), link("a", "b", 5.1, via="c"), link("b", "b", 0.4)),
        shifts=(
            t.ZoneShift(
                service="shop/orders:80",
                caller_zone="a",
                shares=(t.ZoneShare(zone="b", share=0.25), t.ZoneShare(zone="b", via="c", share=0.75)),
            ),
        ),
    )
    plane.happen("steered", "first")
    plane.happen("detoured", "75 % of zone a to b pass c, because a->b is slow", severity="warning")
    page.goto(api.client.login_link())
    ways = page.locator(".zones .way")
    expect(ways).to_have_count(3)
    expect(ways.first).to_contain_text("201 ms 50 % usually 2.1 ms")
    expect(ways.nth(1)).to_contain_text("via c 5.1 ms")
    expect(page.locator(".shift")).to_have_text("shop/orders:80, callers in a: 25 % to b, 75 % to b via c")
    expect(page.locator("header .bad")).to_have_text(PANIC)
    expect(page.locator(".events li").first).to_contain_text("75 % of zone a to b pass c")


def test_a_mesh_without_zones_has_no_panel_of_zones(api: RunningApi, page: Page, plane: FakePlane):
    plane.between = t.Zones(at=NOW, window=5.0, links=(link("", "", 0.4),))
    page.goto(api.client.login_link())
    expect(page.locator(".link.live")).to_be_visible()
    expect(page.locator(".zones")).to_have_count(0)


def test_the_picture_is_walked_by_keyboard_and_escape_leads_back(api: RunningApi, page: Page, plane: FakePlane):
    plane.traffic = t.Edges(at=NOW, window=5.0, edges=(edge(),))
    page.goto(api.client.login_link())
    called = page.get_by_role("button", name="shop/web calls shop/orders")
    called.focus()
    page.keyboard.press("Enter")
    expect(page.locator("aside h2").first).to_have_text("shop/web → shop/orders:80")
    page.keyboard.press("Escape")
    expect(page.locator("aside h2").first).to_have_text("Whole mesh")


def test_an_edge_whose_calls_are_denied_does_not_look_well(api: RunningApi, page: Page, plane: FakePlane):
    plane.traffic = t.Edges(at=NOW, window=5.0, edges=(msgspec.structs.replace(edge(), denied_per_second=12.5),))
    page.goto(api.client.login_link())
    expect(page.locator(".edge.warn")).to_contain_text("13/s · all denied")


def test_services_that_nobody_calls_stand_beneath_those_that_are_called(api: RunningApi, page: Page, plane: FakePlane):
    alone = tuple(node(f"alone-{each}") for each in range(12))
    assert plane.picture
    plane.picture = msgspec.structs.replace(plane.picture, nodes=(*alone, node("orders"), node("web")))
    plane.traffic = t.Edges(at=NOW, window=5.0, edges=(edge(),))
    page.goto(api.client.login_link())
    expect(page.locator(".node")).to_have_count(14)
    expect(page.locator(".edge")).to_have_count(1)
    boxes = {
        name: page.locator(".node", has=page.locator(f'text="{name}"')).bounding_box()
        for name in ("orders", "alone-0", "alone-1")
    }
    first, second, called = boxes["alone-0"], boxes["alone-1"], boxes["orders"]
    assert first
    assert second
    assert called
    assert first["y"] > called["y"] + called["height"]
    assert second["y"] == first["y"]


def test_a_dot_is_a_dot_and_words_stay_in_their_box_whatever_the_state(api: RunningApi, page: Page, plane: FakePlane):
    placements = ("node", "node", "node", "library", "library", "sidecar")
    known: dict[str, Any] = {"state": "UNHEALTHY", "machine": "vm", "zone": "", "identity": "spiffe://mesh.local/x"}
    known |= {"certificate_expires_at": NOW, "is_connected": True, "is_in_sync": True}
    instances = tuple(
        t.NodeWorkload(workload=f"a-long-namespace/orders-{number}", placement=placement, **known)
        for number, placement in enumerate(placements)
    )
    busy = msgspec.structs.replace(node("orders"), namespace="a-long-namespace", workloads=instances)
    assert plane.picture
    plane.picture = msgspec.structs.replace(plane.picture, nodes=(busy, node("web")))
    proxies = tuple(
        ProxyStatus(
            proxy=each.workload, workload=each.workload, service="orders", placement="node", revision=7, **known
        )
        for each in instances
    )
    plane.mesh_status = MeshStatus(plane=NO_FACTS, proxies=proxies)
    page.goto(api.client.login_link())
    dot = page.locator(".workloads i.dot.bad").first.bounding_box()
    assert dot
    assert dot["width"] < 12
    box = page.locator(".node", has=page.locator('text="orders"'))
    frame, words = box.locator("> rect").first.bounding_box(), box.locator("> text.dim").first.bounding_box()
    assert frame
    assert words
    assert words["x"] + words["width"] <= frame["x"] + frame["width"]


def test_a_stream_that_had_to_be_opened_anew_tells_nothing_twice(api: RunningApi, page: Page, plane: FakePlane):
    """The first one ends, and who comes back is sent away once."""
    plane.happen("applied", "before")
    asked: list[Route] = []

    def answer(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(content_type="text/event-stream", body=b"retry: 1\n\n" + frame(plane.log[0]))
        elif len(asked) == 2:
            route.fulfill(status=204)
        else:
            route.continue_()

    page.route("**/v1/live", answer)
    page.goto(api.client.login_link())
    expect(page.locator(".events li")).to_have_count(1)
    plane.happen("applied", "after")
    expect(page.locator(".events li").first).to_contain_text("after", timeout=20_000)
    expect(page.locator(".events li")).to_have_count(2)
    assert len(asked) == 3
