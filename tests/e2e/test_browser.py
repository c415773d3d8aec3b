"""The shop and the dashboard, opened by a person: Debian's Chromium on a mesh with real traffic.

``MASCHE_SCREENSHOT=FILE`` keeps a picture of the dashboard in light, and in dark one beside it.
"""

import os
import shutil
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from e2e.calling import status_of
from e2e.mesh import Mesh, free_port
from e2e.waiting import until
from masche.cli import stage

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
INSTANCES = {"inventory": 3, "payment": 2, "orders": 1, "web": 1}
EDGES = {("load", "web"), ("edge", "web"), ("web", "orders"), ("orders", "payment"), ("orders", "inventory")}


@dataclass(frozen=True)
class Shop:
    """The shop, open: where people enter it, and the mesh around it."""

    mesh: Mesh
    url: str


def _program(name: str) -> list[str]:
    return [sys.executable, str(stage.SHOP / f"{name}.py")]


@pytest.fixture(scope="module")
def shop(mesh: Mesh) -> Shop:
    """The shop with customers, and a way in for one more."""
    mesh.apply((stage.SHOP / "shop.yaml").read_text())
    node = shutil.which("node")
    assert node, "Node is not installed"
    instances = []
    for service, count in INSTANCES.items():
        command = [node, str(stage.SHOP / "orders.mjs")] if service == "orders" else _program(service)
        labels = ["--label", "version=v1"] if service == "payment" else []
        for _ in range(count):
            instances.append(mesh.run(service, command, options=["--health", "http:/healthz", *labels]))
    mesh.await_ready(*instances)
    listen = f"127.0.0.1:{free_port()}"
    mesh.gateway("edge", listen)
    mesh.run("load", _program("load"), has_port=False, env={"RATE": "40"})
    return Shop(mesh, f"http://{listen}/")


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Complaints(list[str]):
    """What a page writes to its console as a warning or an error, or throws."""

    def watch(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.append(f"{message.text} {message.location}")


@pytest.fixture
def page(browser: Browser) -> Generator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, device_scale_factor=2)
    yield context.new_page()
    context.close()


def test_a_person_sees_the_shelves_and_buys_something_through_the_gateway(shop: Shop, page: Page):
    until(lambda: status_of(shop.url) == 200, "the gateway serves the shop")
    complaints = Complaints()
    complaints.watch(page)
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    page.goto(shop.url)
    assert page.title() == "The shop"
    assert page.get_by_role("row").count() >= 3
    page.get_by_role("button", name="buy").first.click()
    expect(page.locator("#said")).to_contain_text("paid by payment v1")
    assert not complaints


def test_the_dashboard_shows_the_living_mesh(shop: Shop, page: Page):
    until(lambda: status_of(shop.url) == 200, "the gateway serves the shop")
    complaints = Complaints()
    complaints.watch(page)
    page.emulate_media(color_scheme="light")
    page.goto(shop.mesh.masche("dashboard").stdout.strip())
    page.wait_for_url("**/")
    expect(page.locator(".link.live")).to_be_visible()
    for service in (*INSTANCES, "load", "edge"):
        expect(page.locator(".picture .name").get_by_text(service, exact=True)).to_be_visible()
    visits = [status_of(f"{shop.url}?{each}") for each in range(40)]  # so that the way in has traffic, too
    assert visits == [200] * 40
    for source, destination in EDGES:
        line = page.locator(f'.edge[data-source$="/{source}"][data-destination$="/{destination}"]')
        expect(line.locator(".figures").first).to_contain_text("/s · 100 %", timeout=30_000)
        expect(line.locator(".figures").last).to_contain_text("ms")
    rows = page.locator(".workloads tbody tr")
    for service, count in INSTANCES.items():
        mine = rows.filter(has_text=f"{service}-")
        expect(mine).to_have_count(count)
        for row in mine.all():
            expect(row.get_by_role("cell").nth(1)).to_have_text("ready")
            expect(row.get_by_role("cell").nth(2)).to_have_text(f"mesh.local/ns/shop/sa/{service}")
            expect(row.get_by_role("cell").nth(3)).to_have_text("24 h")
            expect(row.get_by_role("cell").nth(4)).to_have_text("live")
    _keep_pictures(shop, page)
    assert not complaints


def _keep_pictures(shop: Shop, page: Page) -> None:
    """Half a minute of traffic, so that the curves have something to show."""
    if not (wanted := os.environ.get("MASCHE_SCREENSHOT")):
        return
    light = Path(wanted)
    page.set_viewport_size({"width": 1440, "height": 760})
    for _ in range(300):
        assert status_of(shop.url) == 200
        page.wait_for_timeout(100)
    page.screenshot(path=light)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=light.with_stem(f"{light.stem}-dark"))
    page.emulate_media(color_scheme="light")
