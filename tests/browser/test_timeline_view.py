"""The timeline view in the real editor: hands on it change the text, changes of the text show in it, and nothing else holds anything."""

import copy
import json

import pytest
from playwright.sync_api import Locator
from wan_conductor.tests.browser.page import ROOT, ComfyUIPage

WORKFLOW = json.loads((ROOT / "workflows" / "temporal_mask.json").read_text(encoding="utf-8"))
TEXT = """cat:                 # always there
  0s - 1.5s    watches a bowl
  1.5s - end   dips its paw   x1.5   # how deep?
dog:
  always       sleeps
"""
PROMPT = "a red cat watches a bowl, dips its paw, drinks, sits, runs, rests, jumps; a dog sleeps; a fox; rain"
NODE = "app.graph.nodes.find(node => node.type === 'WanConductorTemporalMask')"
TEXT_OF_NODE = f"{NODE}.widgets.find(widget => widget.name === 'timeline').value"
TO_NODE = f"""() => {{
    const node = {NODE}, view = app.canvas.ds;
    view.scale = 1;
    view.offset = [300 - node.pos[0], 150 - node.pos[1]];
    app.graph.setDirtyCanvas(true, true);
}}"""


def without(workflow: dict, node_type: str) -> dict:
    """A copy of the workflow with no node of that type, and no link to one."""
    workflow = copy.deepcopy(workflow)
    gone = {node["id"] for node in workflow["nodes"] if node["type"] == node_type}
    cut = {link[0] for link in workflow["links"] if gone & {link[1], link[3]}}
    workflow["nodes"] = [node for node in workflow["nodes"] if node["id"] not in gone]
    workflow["links"] = [link for link in workflow["links"] if link[0] not in cut]
    for node in workflow["nodes"]:
        for output in node.get("outputs", ()):
            output["links"] = [link for link in output["links"] or () if link not in cut]
    return workflow


class TimelineOnPage:
    """The one timeline view on the page. Lengths are in latent frames of the workflow's 49 frames: 0, then 1, 5, 9, ..., 49."""

    def __init__(self, page: ComfyUIPage):
        self.editor, self.page, self.root = page, page.page, page.page.locator(".wan-conductor-timeline")

    def open(self, text: str) -> None:
        workflow = without(WORKFLOW, "SaveVideo")  # Nodes 2.0 lays it out again after an undo, which the host records as one step more
        next(node for node in workflow["nodes"] if node["type"] == "WanConductorTemporalMask")["widgets_values"][0] = text
        next(node for node in workflow["nodes"] if node.get("title") == "prompt")["widgets_values"][0] = PROMPT
        self.editor.load(workflow)
        self.to_node()

    def to_node(self) -> None:
        self.page.evaluate(TO_NODE)
        self.page.wait_for_timeout(500)

    def write(self, text: str) -> None:
        self.page.evaluate(f"text => {{ {NODE}.widgets.find(widget => widget.name === 'timeline').value = text; }}", text)

    def text(self) -> str:
        return self.page.evaluate(f"() => {TEXT_OF_NODE}")

    def lines(self) -> list[str]:
        return self.text().split("\n")

    def block(self, words: str) -> Locator:
        return self.root.locator(".block", has_text=words)

    def shown(self) -> list[str]:
        return self.root.locator(".block .words").all_inner_texts()

    def latents(self, pixels_per_frame_of: int = 4) -> float:
        """CSS pixels on screen of that many pixel frames."""
        box = self.root.locator(".time").bounding_box()
        assert box
        return box["width"] * pixels_per_frame_of / 49

    def drag(self, what: Locator, by: float, at: float = 0.5) -> None:
        box = what.bounding_box()
        assert box
        x, y = box["x"] + box["width"] * at, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for step in range(1, 6):
            self.page.mouse.move(x + by * step / 5, y)
        self.page.mouse.up()

    def undo(self) -> None:
        self.press_and_wait_for_text("Control+z")

    def redo(self) -> None:
        self.press_and_wait_for_text("Control+y")

    def press_and_wait_for_text(self, keys: str) -> None:
        """Undo and redo load the graph anew, in their own time."""
        before = self.text()
        self.page.keyboard.press(keys)
        self.page.wait_for_function(f"before => {TEXT_OF_NODE} !== before", arg=before)
        self.page.wait_for_timeout(1500)

    def textarea(self) -> Locator:
        """Where the text is typed."""
        nodes_2 = self.page.locator(".lg-node", has=self.root).locator("textarea")
        if nodes_2.count():
            return nodes_2
        areas = self.page.locator("textarea.comfy-multiline-input:visible")
        return next(area for area in areas.all() if area.input_value() == self.text())


@pytest.fixture
def timeline(page: ComfyUIPage) -> TimelineOnPage:
    view = TimelineOnPage(page)
    view.open(TEXT)
    assert view.root.count() == 1
    return view


def changed(before: str, after: list[str]) -> list[str]:
    return [line for line in after if line not in before.split("\n")]


def test_a_dragged_span_moves_by_latents_and_only_its_line_changes(timeline: TimelineOnPage, request):
    assert timeline.shown() == ["watches a bowl", "dips its paw", "sleeps"]
    timeline.drag(timeline.block("watches a bowl"), by=timeline.latents(5))
    assert changed(TEXT, timeline.lines()) == ["  0.0625s - 1.5625s  watches a bowl"]
    timeline.drag(timeline.block("dips its paw").locator(".edge.start"), by=timeline.latents(8))
    assert changed(TEXT, timeline.lines())[1:] == ["  2.0625s - end  dips its paw   x1.5   # how deep?"]
    timeline.editor.screenshot(f"timeline_{request.node.callspec.id}")
    assert not timeline.editor.errors_of_the_pack()


def test_each_edit_is_one_step_of_the_graphs_undo(timeline: TimelineOnPage):
    timeline.drag(timeline.block("watches a bowl").locator(".edge.end"), by=-timeline.latents(8))
    once = timeline.text()
    timeline.page.keyboard.press("Shift+ArrowLeft")
    assert changed(once, timeline.lines()) == ["  0s - 0.8125s  watches a bowl"]
    timeline.undo()
    assert timeline.text() == once
    timeline.undo()
    assert timeline.text() == TEXT
    timeline.redo()
    assert timeline.text() == once
    assert timeline.root.count() == 1
    timeline.page.keyboard.press("Tab")  # undo made the node anew, and the view has the keyboard all the same
    timeline.page.keyboard.press("ArrowRight")
    assert timeline.text() != once


def test_the_keyboard_alone_edits(timeline: TimelineOnPage):
    press = timeline.page.keyboard.press
    timeline.root.focus()
    press("Tab")
    press("Tab")
    press("Alt+ArrowRight")
    assert changed(TEXT, timeline.lines()) == ["  1.5625s - end  dips its paw   x1.5   # how deep?"]
    press("[")
    assert "x1.25   # how deep?" in timeline.text()
    press("Enter")
    timeline.page.keyboard.type("drinks x2")
    press("Enter")
    assert "  1.5625s - end  drinks x2   # how deep?" in timeline.lines()
    press("s")
    assert changed(TEXT, timeline.lines()) == ["  1.5625s - 2.3125s  drinks x2   # how deep?", "  2.3125s - end      drinks x2"]
    nodes = timeline.page.evaluate("() => app.graph.nodes.length")
    press("Delete")
    assert "  2.3125s - end      drinks x2" not in timeline.lines()
    for _ in range(4):
        press("Delete")
    assert timeline.text() == "cat:                 # always there\ndog:\n"
    assert timeline.page.evaluate("() => app.graph.nodes.length") == nodes


def test_a_span_is_drawn_and_gets_its_words(timeline: TimelineOnPage):
    timeline.write("always rain\ncat:\n")
    track = timeline.root.locator(".track").nth(1)
    box = track.bounding_box()
    assert box
    x, y = box["x"] + timeline.latents(9), box["y"] + box["height"] / 2
    timeline.page.mouse.move(x, y)
    timeline.page.mouse.down()
    timeline.page.mouse.move(x + timeline.latents(4), y)
    timeline.page.mouse.move(x + timeline.latents(8), y)
    timeline.page.mouse.up()
    timeline.page.keyboard.type("jumps")
    timeline.page.keyboard.press("Enter")
    assert timeline.lines() == ["always rain", "cat:", "  0.5625s - 1.0625s  jumps", ""]
    timeline.page.mouse.dblclick(x + timeline.latents(4), y)
    timeline.page.keyboard.type("leaps")
    timeline.page.keyboard.press("Escape")
    assert timeline.lines()[2] == "  0.5625s - 1.0625s  jumps"


def test_a_subject_is_added_and_renamed(timeline: TimelineOnPage):
    timeline.root.get_by_label("add a subject").click()
    timeline.page.keyboard.type("fox")
    timeline.page.keyboard.press("Enter")
    assert timeline.text() == f"{TEXT}fox:\n"
    timeline.root.locator(".name", has_text="cat").dblclick()
    timeline.page.keyboard.type("a red cat")
    timeline.page.keyboard.press("Enter")
    assert timeline.lines()[0] == "a red cat:                 # always there"


def test_what_is_typed_into_the_text_shows_at_once_and_its_errors_at_their_line(timeline: TimelineOnPage):
    area = timeline.textarea()
    area.fill("cat:\n  0s - 1s  sits\n  1s - 2x  runs\n  2s - 9s  rests")
    assert timeline.shown() == ["sits", "rests"]
    problems = timeline.root.locator(".problem")
    assert [text.split("\n")[0] for text in problems.all_inner_texts()] == ["line 3", "line 4"]
    assert "unknown unit" in problems.nth(0).inner_text() and "ends outside" in problems.nth(1).inner_text()
    assert "wrong" in (timeline.block("rests").get_attribute("class") or "")
    problems.nth(0).click()
    selected = "() => document.activeElement.value.slice(document.activeElement.selectionStart, document.activeElement.selectionEnd)"
    assert timeline.page.evaluate(selected) == "  1s - 2x  runs"


def test_only_the_text_is_saved_and_reloading_brings_everything_back(timeline: TimelineOnPage):
    timeline.drag(timeline.block("watches a bowl"), by=timeline.latents(5))
    edited = timeline.text()
    saved = timeline.editor.saved()
    node = next(node for node in saved["nodes"] if node["type"] == "WanConductorTemporalMask")
    before = next(node for node in WORKFLOW["nodes"] if node["type"] == "WanConductorTemporalMask")
    assert node["widgets_values"] == [edited, *before["widgets_values"][1:]]
    assert node["properties"] == before["properties"]
    queued = next(node for node in timeline.editor.prompt().values() if node["class_type"] == "WanConductorTemporalMask")
    assert queued["inputs"]["timeline"] == edited
    assert "timeline_view" not in queued["inputs"]
    timeline.page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")  # else the editor restores its own draft
    timeline.page.reload()
    timeline.page.wait_for_function("() => window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length")
    timeline.page.wait_for_timeout(2000)
    timeline.editor.load(saved)
    assert timeline.text() == edited
    assert timeline.root.count() == 1
    assert timeline.shown() == ["watches a bowl", "dips its paw", "sleeps"]


def test_the_renderer_is_switched_while_it_is_open(timeline: TimelineOnPage):
    for _ in range(2):
        timeline.page.evaluate("async () => app.ui.settings.setSettingValueAsync('Comfy.VueNodes.Enabled', !LiteGraph.vueNodesMode)")
        timeline.page.wait_for_timeout(1500)
        timeline.to_node()
        before = timeline.text()
        assert timeline.root.count() == 1
        timeline.drag(timeline.block("sleeps").locator(".edge.end"), by=-timeline.latents(4))
        assert timeline.text() != before
    assert changed(TEXT, timeline.lines()) == ["  0s - 2.5625s  sleeps"]


def test_a_pasted_copy_has_a_view_of_its_own(timeline: TimelineOnPage):
    timeline.page.evaluate(
        f"""() => {{
            const node = {NODE};
            app.canvas.selectNode(node);
            app.canvas.copyToClipboard([node]);
            app.canvas.pasteFromClipboard({{ position: [node.pos[0], node.pos[1] + 760] }});
        }}"""
    )
    timeline.page.wait_for_timeout(800)
    texts = f"() => app.graph.nodes.filter(node => node.type === {NODE}.type).map(node => node.widgets[0].value)"
    assert timeline.page.evaluate(texts) == [TEXT, TEXT]
    timeline.page.evaluate("() => { app.canvas.ds.scale = 0.6; app.canvas.ds.offset[1] += 60; app.graph.setDirtyCanvas(true, true); }")
    timeline.page.wait_for_timeout(500)
    assert timeline.root.count() == 2
    copy = timeline.root.nth(1)
    timeline.drag(copy.locator(".block", has_text="sleeps").locator(".edge.end"), by=-0.6 * 40)
    first, second = timeline.page.evaluate(texts)
    assert first == TEXT
    assert second != TEXT


def test_it_works_inside_a_subgraph(timeline: TimelineOnPage):
    timeline.page.evaluate(
        f"""() => {{
            const {{ subgraph }} = app.graph.convertToSubgraph(new Set([{NODE}]));
            app.canvas.setGraph(subgraph);
        }}"""
    )
    timeline.page.wait_for_timeout(800)
    inside = "app.canvas.graph.nodes.find(node => node.type === 'WanConductorTemporalMask')"
    timeline.page.evaluate(TO_NODE.replace(NODE, inside))
    timeline.page.wait_for_timeout(800)
    view = timeline.root.locator("visible=true")
    assert view.count() == 1
    assert view.locator(".length").inner_text() == "49 frames"  # of the latent outside
    timeline.drag(view.locator(".block", has_text="sleeps").locator(".edge.end"), by=-timeline.latents(4))
    text = timeline.page.evaluate(f"() => {inside}.widgets.find(widget => widget.name === 'timeline').value")
    assert changed(TEXT, text.split("\n")) == ["  0s - 2.8125s  sleeps"]
    queued = next(node for node in timeline.editor.prompt().values() if node["class_type"] == "WanConductorTemporalMask")
    assert queued["inputs"]["timeline"] == text


def test_a_text_that_comes_through_the_socket_is_not_edited_here(timeline: TimelineOnPage):
    timeline.page.evaluate(
        f"""() => {{
            const node = {NODE}, source = LiteGraph.createNode('PrimitiveStringMultiline');
            app.graph.add(source);
            source.connect(0, node, node.inputs.findIndex(input => input.name === 'timeline'));
        }}"""
    )
    timeline.root.hover()
    assert "through the socket" in timeline.root.inner_text()
    assert timeline.root.locator(".block").count() == 0


def test_fps_is_the_nodes_own_and_the_length_follows_the_latent(timeline: TimelineOnPage):
    assert timeline.root.locator(".length").inner_text() == "49 frames"
    timeline.page.evaluate(
        "() => { app.graph.nodes.find(node => node.type === 'EmptyHunyuanLatentVideo').widgets.find(w => w.name === 'length').value = 33; }"
    )
    timeline.root.hover()
    assert timeline.root.locator(".length").inner_text() == "33 frames"
    fps = timeline.root.locator(".fps input")
    fps.fill("8")
    fps.press("Enter")
    assert timeline.page.evaluate(f"() => {NODE}.widgets.find(widget => widget.name === 'fps').value") == 8
    assert timeline.root.locator(".tick").last.inner_text() in ("4s", "")


def test_a_picture_of_no_length_is_drawn_for_the_video(timeline: TimelineOnPage):
    for written, drawn in [(0, 49), (81, 81), (0, 49)]:
        timeline.page.evaluate(f"length => {{ {NODE}.widgets.find(widget => widget.name === 'length').value = length; }}", written)
        queued = next(node for node in timeline.editor.prompt().values() if node["class_type"] == "WanConductorTemporalMask")
        saved = next(node for node in timeline.editor.saved()["nodes"] if node["type"] == "WanConductorTemporalMask")
        assert queued["inputs"]["length"] == drawn and saved["widgets_values"][7] == written


def test_zooming_shows_less_time_and_leaves_the_text(timeline: TimelineOnPage):
    timeline.root.focus()
    timeline.page.keyboard.press("+")
    timeline.page.keyboard.press("+")
    assert timeline.latents() > 1.9 * timeline.root.locator(".scroll").bounding_box()["width"] * 4 / 49
    timeline.drag(timeline.block("watches a bowl").locator(".edge.end"), by=-timeline.latents(8))
    assert changed(TEXT, timeline.lines()) == ["  0s - 1.0625s  watches a bowl"]


def test_a_shown_text_has_room_on_the_node(timeline: TimelineOnPage):
    text = "  \n".join(f"line {index} of what was found" for index in range(8))  # as nodes/shown.py sends it
    timeline.page.evaluate(
        f"""text => {{
            const detail = {{ nodeId: String({NODE}.id), text }};
            window.comfyAPI.api.api.dispatchEvent(new CustomEvent('progress_text', {{ detail }}));
        }}""",
        text,
    )
    timeline.page.wait_for_timeout(800)
    shown = timeline.page.get_by_text("line 7 of what was found")
    assert shown.is_visible()
    clipped = "element => { const box = element.closest('.overflow-y-auto'); return box.scrollHeight > box.clientHeight + 1; }"
    assert not shown.evaluate(clipped)
