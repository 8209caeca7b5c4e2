"""A first run by hand: a node is found, its links are dragged, the graph is queued and watched, its result seen, saved and opened again."""

import json

import pytest
from wan_conductor.tests.browser.page import ROOT, ComfyUIPage
from wan_conductor.tests.browser.test_timeline_view import NODE, TimelineOnPage, without

WORKFLOW = json.loads((ROOT / "workflows" / "temporal_mask.json").read_text(encoding="utf-8"))
NOT_NEEDED = ("WanConductorTemporalMask", "KSampler", "VAEDecode", "ImageScaleBy", "CreateVideo", "SaveVideo", "SaveLatent", "MarkdownNote",
              "WanConductorAttentionPreview")  # fmt: skip
STEPS = 4
PLACE = """([type, title, slot, output]) => {
    const node = app.graph.nodes.find(node => node.type === type && (!title || node.title === title));
    const slots = output ? node.outputs : node.inputs;
    const place = slots.findIndex(({ name }) => name.toLowerCase() === slot);
    const at = output ? node.getOutputPos(place) : node.getInputPos(place);
    const box = app.canvas.canvas.getBoundingClientRect(), { scale, offset } = app.canvas.ds;
    return [box.left + (at[0] + offset[0]) * scale, box.top + (at[1] + offset[1]) * scale];
}"""
TO_ITS_PLACE = f"""() => {{
    {NODE}.pos = [780, 0];
    app.canvas.ds.scale = 0.8;
    app.canvas.ds.offset = [100, 150];
    app.graph.setDirtyCanvas(true, true);
}}"""
LISTEN = """() => {
    window.seen = {};
    for (const name of ['progress_state', 'b_preview', 'execution_success', 'execution_error'])
        window.comfyAPI.api.api.addEventListener(name, () => seen[name] = (seen[name] ?? 0) + 1);
}"""
MASK, LOADER, SAMPLER = "WanConductorTemporalMask", "WanConductorPlaygroundLoader", "WanConductorGuidedKSampler"


def place(page: ComfyUIPage, node_type: str, slot: str, output: bool, title: str = "") -> list[float]:
    return page.page.evaluate(PLACE, [node_type, title, slot, output])


def drag(page: ComfyUIPage, start: list[float], end: list[float]) -> None:
    page.page.mouse.move(*start)
    page.page.mouse.down()
    page.page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
    page.page.mouse.move(*end, steps=4)
    page.page.mouse.up()
    page.page.wait_for_timeout(300)


def unguided(seed: int) -> dict:
    """The example without the node that guides, and without all that is not needed to see a report."""
    workflow = WORKFLOW
    for node_type in NOT_NEEDED:
        workflow = without(workflow, node_type)
    (sampler,) = [node for node in workflow["nodes"] if node["type"] == SAMPLER]
    sampler["widgets_values"][1], sampler["widgets_values"][3] = seed, STEPS  # what has run before is not run again
    for node in workflow["nodes"]:  # what the cut links left behind
        for socket in node["inputs"]:
            socket["link"] = socket["link"] if socket["link"] in [link[0] for link in workflow["links"]] else None
    workflow["groups"] = []
    return workflow


@pytest.fixture
def previews(server):
    """A user who has turned previews on."""
    server.client.post("/settings", {"Comfy.Execution.PreviewMethod": "latent2rgb"})


def test_a_node_is_found_linked_run_and_seen(previews, page: ComfyUIPage, request):
    page.load(unguided(seed=sum(request.node.callspec.id.encode())))
    page.page.mouse.dblclick(620, 560)
    page.page.wait_for_timeout(500)
    page.page.keyboard.type("tempocontrol")
    page.page.wait_for_timeout(1500)
    page.page.keyboard.press("Enter")
    page.page.wait_for_function(f"() => {NODE}")
    page.page.wait_for_timeout(500)
    page.page.mouse.move(640, 600, steps=3)
    page.page.mouse.click(640, 600, delay=100)  # till then the new node follows the mouse
    page.page.wait_for_function(f"() => !{NODE}.flags.ghost")
    page.page.evaluate(TO_ITS_PLACE)
    page.page.wait_for_timeout(500)
    drag(page, place(page, LOADER, "model", True), place(page, MASK, "model", False))
    drag(page, place(page, "WanConductorTextEncode", "conditioning", True, "prompt"), place(page, MASK, "conditioning", False))
    drag(page, place(page, MASK, "model", True), place(page, SAMPLER, "model", False))
    page.screenshot(f"linked_{request.node.callspec.id}")
    classes = {node["class_type"]: node["inputs"] for node in page.prompt().values()}
    assert isinstance(classes[MASK].get("model"), list) and isinstance(classes[MASK].get("conditioning"), list), classes[MASK]
    assert isinstance(classes[SAMPLER].get("model"), list), classes[SAMPLER]
    view = TimelineOnPage(page)
    view.to_node()
    start = 50 if request.node.callspec.id == "classic" else 51  # of one's own: what the server has in its cache shows nothing on a node
    view.textarea().fill(f"{start}% - end  yellow circle")
    assert view.shown() == ["yellow circle"] and not view.root.locator(".problem").count()
    page.page.evaluate(LISTEN)
    page.page.get_by_test_id("queue-button").click()
    page.page.wait_for_function("() => seen.execution_success || seen.execution_error", timeout=240_000)
    seen = page.page.evaluate("() => seen")
    assert not seen.get("execution_error") and seen["progress_state"] > STEPS and seen.get("b_preview")
    page.page.wait_for_timeout(1500)
    page.screenshot(f"first_run_{request.node.callspec.id}")
    assert page.page.get_by_text("yellow circle: ▁yellow", exact=False).first.is_visible()  # the matched tokens, on the node
    shown = "() => app.graph.nodes.filter(node => app.nodeOutputs[node.id]?.images?.length).map(node => node.type)"
    assert {"WanConductorTimingReport", MASK} <= set(page.page.evaluate(shown))
    queued, saved = page.prompt(), page.saved()
    page.load(saved)
    assert page.prompt() == queued and not page.errors_of_the_pack()
