"""The login link in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from masche.testing.api import RunningApi


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


def test_a_link_logs_one_browser_in_once_and_leaves_no_code_in_its_history(api: RunningApi, browser: Browser):
    link = api.client.login_link()
    page = browser.new_context().new_page()
    page.goto(link)
    page.wait_for_url(f"{api.listening.url}/")
    assert page.title() == "masche"
    page.go_back()
    assert "#" not in page.url
    stranger = browser.new_context().new_page()
    stranger.goto(link)
    stranger.get_by_text("has been used or is too old").wait_for()
    assert stranger.url == f"{api.listening.url}/login"
    stranger.goto(api.client.login_link())
    stranger.wait_for_url(f"{api.listening.url}/")


def test_the_page_of_another_origin_cannot_read_or_write_with_the_browsers_cookie(api: RunningApi, browser: Browser):
    page = browser.new_context().new_page()
    page.goto(api.client.login_link())
    page.wait_for_url(f"{api.listening.url}/")
    elsewhere = api.listening.url.replace("127.0.0.1", "localhost")
    page.goto(f"{elsewhere}/login")
    asking = "fetch(url, {method, credentials: 'include', mode: 'cors'})"
    fetching = f"([url, method]) => {asking}.then(() => 'read', () => 'kept out')"
    for method in ("GET", "POST", "DELETE"):
        assert page.evaluate(fetching, [f"{api.listening.url}/v1/session", method]) == "kept out"
    page.goto(f"{api.listening.url}/v1/session")
    assert '"kind":"browser"' in page.content()
