"""A Vite development server through the gateway: pages, modules, and hot replacement over its WebSocket."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.support.http import request
from tests.support.process import Program
from tests.support.raw import at
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import find, need

PROJECT = Path(__file__).parent / "vite"
CONFIG = """
export default {
  server: {host: '127.0.0.1', port: 0, allowedHosts: ['.localhost']},
  optimizeDeps: {noDiscovery: true},
}
"""


class Page:
    """A page under development."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self.folder = folder
        self.gateway = gateway
        self.host = f"web.localhost:{gateway.proxy.rpartition(':')[2]}"

    def get(self, path: str) -> str:
        """What a browser would get."""
        response = request(self.gateway.proxy, path, headers={"Host": self.host})
        assert response.status == 200, response
        return response.text


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A Vite server behind the gateway, in a folder of its own."""
    assert (PROJECT / "node_modules").is_dir(), "vite is missing (run `make npm`)"
    folder = tmp_path_factory.mktemp("vite")
    (folder / "node_modules").symlink_to(PROJECT / "node_modules")
    shutil.copy(PROJECT / "package.json", folder)
    (folder / "vite.config.js").write_text(CONFIG)
    (folder / "index.html").write_text('<h1>tide</h1><script type="module" src="/main.js"></script>\n')
    (folder / "main.js").write_text("import {text} from './text.js'\nimport.meta.hot.accept()\nconsole.log(text)\n")
    (folder / "text.js").write_text("export const text = 'first'\n")
    vite = PROJECT / "node_modules" / "vite" / "bin" / "vite.js"
    with Program([need("node", "https://nodejs.org/"), vite], name="vite", cwd=folder, env={"NO_COLOR": "1"}) as server:
        found = find(server, r"http://127\.0\.0\.1:(\d+)")
        with Gateway() as gateway, Agent(gateway.agents, "http", "web", f"127.0.0.1:{found[1]}"):
            gateway.until_offered("web")
            yield Page(folder, gateway)


def test_the_page_and_its_modules_arrive(page: Page) -> None:
    assert "<h1>tide</h1>" in page.get("/")
    assert "/@vite/client" in page.get("/")
    assert 'from "/text.js' in page.get("/main.js")
    assert "createHotContext" in page.get("/@vite/client")


def test_a_changed_module_is_announced_over_the_websocket(page: Page) -> None:
    token = re.search(r'wsToken = "([^"]+)"', page.get("/@vite/client"))
    assert token is not None
    page.get("/main.js")
    page.get("/text.js")
    address = f"ws://{page.host}/?token={token[1]}"
    options = {
        "address": at(page.gateway.proxy),
        "proxy": None,
        "subprotocols": ["vite-hmr"],
        "origin": f"http://{page.host}",
    }
    with connect(address, **options) as browser:  # type: ignore[arg-type]
        assert json.loads(browser.recv(20))["type"] == "connected"

        (page.folder / "text.js").write_text("export const text = 'second'\n")

        update = json.loads(browser.recv(20))
        assert update["type"] == "update"
        assert update["updates"][0]["path"] == "/main.js"
    assert "second" in page.get("/text.js")
