"""The line that says what guidance costs at most: on the nodes in both renderers, live, and in nothing that is saved or queued."""

from wan_conductor.tests.browser.page import ComfyUIPage

SAMPLER, BUDGET = "WanConductorGuidedKSampler", "WanConductorGuidanceBudget"
ADD = """types => types.forEach((type, place) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [100 + 450 * place, 150];
})"""
LINES = "() => [...document.querySelectorAll('.wan-conductor-cost')].filter(line => line.checkVisibility()).map(line => line.textContent)"
CLIPPED = "() => [...document.querySelectorAll('.wan-conductor-cost')].some(line => line.scrollHeight > line.clientHeight)"
SET = """([type, values]) => {
    const node = app.graph.nodes.find(node => node.type === type);
    for (const [name, value] of Object.entries(values)) node.widgets.find(widget => widget.name === name).value = value;
}"""
LINK = f"""() => {{
    const [budget, sampler] = ['{BUDGET}', '{SAMPLER}'].map(type => app.graph.nodes.find(node => node.type === type));
    budget.connect(0, sampler, sampler.inputs.findIndex(({{ name }}) => name === 'model'));
}}"""
COPY = f"""() => {{
    const node = app.graph.nodes.find(node => node.type === '{BUDGET}');
    app.canvas.copyToClipboard([node]);
    app.canvas.pasteFromClipboard({{ position: [node.pos[0], node.pos[1] + 400] }});
}}"""
INTO_A_SUBGRAPH = "() => app.canvas.setGraph(app.graph.convertToSubgraph(new Set(app.graph.nodes)).subgraph)"
FAST = "guidance: at most 2.7x the plain run, at CFG 1 4.4x (6 of 20 steps, 4 updates each)"
LESS = "guidance: at most 1.6x the plain run, at CFG 1 2.3x (6 of 20 steps, 2 updates each)"
CUSTOM = {"budget.iterations": 2, "budget.depth": 0.6, "budget.end_percent": 0.3, "budget.memory_mode": "fast"}


def lines(page: ComfyUIPage) -> list[str]:
    page.page.wait_for_timeout(1200)
    return sorted(page.page.evaluate(LINES))


def values(page: ComfyUIPage) -> dict[str, list]:
    return {node["type"]: node["widgets_values"] for node in page.saved()["nodes"]}


def test_the_line_is_live_and_outlives_everything_but_is_saved_nowhere(page: ComfyUIPage, request):
    page.page.evaluate("() => app.graph.clear()")
    page.page.evaluate(ADD, [SAMPLER, BUDGET])
    assumed = "guidance: at most 2.7x the plain run (6 of 20 steps, 4 updates each), unless a Guidance Budget says otherwise"
    assert lines(page) == sorted([assumed, FAST])
    assert not page.page.evaluate(CLIPPED)
    zoom = page.page.evaluate("() => app.canvas.ds.scale")
    page.page.locator(".wan-conductor-cost").first.hover()
    page.page.mouse.wheel(0, -100)
    page.page.wait_for_function("zoom => app.canvas.ds.scale > zoom", arg=zoom, timeout=15_000)  # over the line too
    page.page.evaluate(LINK)
    page.page.evaluate(SET, [SAMPLER, {"steps": 10, "cfg": 1}])
    page.page.evaluate(SET, [BUDGET, {"budget": "custom"}])
    page.page.evaluate(SET, [BUDGET, CUSTOM])
    sampler = "guidance: at most 2.3x the plain run (3 of 10 steps, 2 updates each)"
    assert lines(page) == sorted([LESS, sampler])
    page.screenshot(f"cost_line_{request.node.callspec.id}")
    saved, prompt = page.saved(), page.prompt()
    assert values(page)[BUDGET] == ["custom", 0, 0.3, 2, 0.005, 2.5, 0.6, "fast", 2]
    assert len(values(page)[SAMPLER]) == 13 and values(page)[SAMPLER][-3:] == ["auto", "t2v", 0]
    assert not [name for node in prompt.values() for name in node["inputs"] if "cost" in name]
    page.page.evaluate("() => app.graph.clear()")
    assert lines(page) == []
    page.load(saved)
    assert values(page) == {node["type"]: node["widgets_values"] for node in saved["nodes"]} and page.prompt() == prompt
    assert lines(page) == sorted([LESS, sampler])
    page.page.evaluate("async () => app.ui.settings.setSettingValueAsync('Comfy.VueNodes.Enabled', !LiteGraph.vueNodesMode)")
    assert lines(page) == sorted([LESS, sampler])
    page.page.evaluate(COPY)
    assert lines(page) == sorted([LESS, LESS, sampler])
    page.page.evaluate(INTO_A_SUBGRAPH)
    assert lines(page) == sorted([LESS, LESS, sampler])
    assert not page.errors_of_the_pack()
