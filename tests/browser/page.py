"""What browser tests do on ComfyUI's page."""

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "output" / "browser"
SHOW_ALL = """() => {
    const boxes = app.graph.nodes.map(node => [node.pos[0], node.pos[1] - 40, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]);
    const edge = (side, best) => best(...boxes.map(box => box[side]));
    const [left, top, right, bottom] = [edge(0, Math.min), edge(1, Math.min), edge(2, Math.max), edge(3, Math.max)];
    const view = app.canvas.ds;
    view.scale = Math.min(1, (innerWidth - 160) / (right - left), (innerHeight - 160) / (bottom - top));
    view.offset = [100 / view.scale - left, 100 / view.scale - top];
    app.graph.setDirtyCanvas(true, true);
}"""


class ComfyUIPage:
    """The editor, opened and ready. `.errors` collects what the page complains about."""

    def __init__(self, page: Page, url: str):
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: self.errors.append(f"{error.message}\n{error.stack}"))
        page.on("console", self.note)
        page.goto(url)
        page.wait_for_function("() => window.app?.graph && window.app.extensionManager && window.LiteGraph")

    def note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def errors_of_the_pack(self) -> list[str]:
        return [error for error in self.errors if "wan-conductor" in error or "WanConductor" in error]

    def load(self, workflow: dict[str, Any]) -> None:
        """Load a workflow as if the user had opened its file, and show all of it."""
        self.page.evaluate("async workflow => { await app.loadGraphData(workflow); }", workflow)
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
        self.page.wait_for_timeout(1000)
        self.page.evaluate(SHOW_ALL)
        self.page.wait_for_timeout(1000)

    def nodes(self) -> list[dict[str, Any]]:
        """Type, title, and whether the editor knows the type and sees an error, of each node."""
        return self.page.evaluate(
            """() => app.graph.nodes.map(node => ({
                type: node.type, title: node.title, errors: !!node.has_errors,
                known: node.type in LiteGraph.registered_node_types || ['Note', 'MarkdownNote'].includes(node.type),
            }))"""
        )

    def overlapping(self) -> list[list[str]]:
        """Pairs of nodes of which one lies on the other."""
        return self.page.evaluate(
            """() => app.graph.nodes.flatMap((one, at) => app.graph.nodes.slice(at + 1).filter(other =>
                [0, 1].every(axis => one.pos[axis] < other.pos[axis] + other.size[axis] && other.pos[axis] < one.pos[axis] + one.size[axis])
            ).map(other => [one.title, other.title]))"""
        )

    def prompt(self) -> dict[str, Any]:
        """The API prompt that pressing Run would queue, without titles."""
        nodes = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in nodes.items()}

    def saved(self) -> dict[str, Any]:
        """The workflow as saving would write it."""
        return json.loads(self.page.evaluate("() => JSON.stringify(app.graph.serialize())"))

    def screenshot(self, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path
