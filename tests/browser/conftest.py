"""A real Chromium on the real page of a real ComfyUI with this pack."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright
from wan_conductor.development.checks import chromium
from wan_conductor.tests.browser.page import ComfyUIPage

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NO_BROWSER = "NO BROWSER TEST WAS RUN: no chromium, and installing one takes apt-get and root: set CHROMIUM_PATH"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(NO_BROWSER)
        pytest.skip(NO_BROWSER)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(path), args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(params=[False, True], ids=["classic", "nodes_2"])
def page(request: pytest.FixtureRequest, server, browser: Browser) -> Iterator[ComfyUIPage]:
    """The editor with an empty graph, in the classic renderer and in Nodes 2.0."""
    server.client.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": request.param})
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    try:
        yield ComfyUIPage(context.new_page(), server.url)
    finally:
        context.close()
