"""The help pages: every input is named, pictures are there, and methods say when, at what cost and beside what they work."""

import re
from pathlib import Path

import pytest
import wan_conductor.nodes as pack

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
NODES = {node.define_schema().node_id: node for node in pack.NODES}
METHODS = ["TemporalMask", "EventSchedule", "SpectralHomeostasis", "CompositionGuide", "MultiPromptBlend"]
VERDICTS = ("tested", "expected", "unknown", "no")
NEIGHBOURS = ("SageAttention", "NAG", "EasyCache", "torch.compile", "LoRA", "GGUF", "ControlNets", "MPS", "AMD")


def page_of(node_id):
    return (DOCS / f"{node_id}.md").read_text(encoding="utf-8")


def named_inputs(inputs):
    for section in ("required", "optional"):
        for name, (kind, *options) in inputs.get(section, {}).items():
            yield name
            if kind == "COMFY_DYNAMICCOMBO_V3" and name != "budget":  # the budget's knobs stand on the page of Guidance Budget
                for choice in options[0]["options"]:
                    yield from named_inputs(choice["inputs"])


@pytest.mark.parametrize("node_id", NODES)
def test_every_node_is_on_the_menu_with_tooltips_and_a_help_page_that_names_every_input(node_id):
    schema, page = NODES[node_id].GET_SCHEMA(), page_of(node_id)
    assert schema.category == "Wan Conductor" and schema.search_aliases
    assert all(one.tooltip for one in [*schema.inputs, *schema.outputs])
    assert NODES[node_id].GET_NODE_INFO_V1()["name"] == node_id
    assert not [one.id for one in schema.inputs if f"`{one.id}`" not in page]
    assert not [name for name in named_inputs(NODES[node_id].GET_NODE_INFO_V1()["input"]) if f"`{name}`" not in page]


def test_every_knob_of_the_budget_is_told_with_the_presets_values():
    from wan_conductor.guidance.budget import PRESETS

    for knob in ("start_percent", "end_percent", "iterations", "step_size", "growth", "depth", "memory_mode", "patience"):
        (row,) = re.findall(rf"^\| `{knob}` \|.*\| (\S+) \| (\S+) \|$", page_of("WanConductorGuidanceBudget"), re.MULTILINE)
        assert [cell.strip("`") for cell in row] == [f"{value:g}" if isinstance(value := getattr(PRESETS[p], knob), (int, float)) else value
                                                     for p in ("fast", "paper")], knob


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_what_a_budget_costs_at_most_is_what_the_report_would_count(preset):
    from wan_conductor.guidance.budget import PRESETS
    from wan_conductor.guidance.report import GuidedStep, LoopHistory

    budget = PRESETS[preset]
    loop = LoopHistory((), [], [], [], budget.iterations + budget.check_last, budget.iterations)
    guided = round(20 * (budget.end_percent - budget.start_percent))
    cost = guided * GuidedStep(0, 1.0, "", [], budget.depth, budget.recomputes, loop).forward_equivalents
    row = f"| `{preset}` | {guided} | {1 + cost / 40:.1f} times"
    assert row in page_of("WanConductorGuidanceBudget") and f"| {1 + cost / 20:.1f} times |" in page_of("WanConductorGuidanceBudget"), row


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_every_page_has_a_node_and_its_pictures(page):
    assert page.stem in NODES
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ") and re.search(r"^## When\b", text, re.MULTILINE)
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text):
        assert (DOCS / picture).is_file(), picture


@pytest.mark.parametrize("node_id", NODES)
def test_the_readme_has_a_row_for_every_node(node_id):
    rows = [line for line in (DOCS.parents[1] / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    words = NODES[node_id].define_schema().display_name.split()
    assert any(all(word in row for word in words) for row in rows), words


@pytest.mark.parametrize("method", METHODS)
def test_a_method_tells_its_cost_few_step_loras_and_what_it_works_with(method):
    page = page_of(f"WanConductor{method}")
    assert "4-step" in page and re.search(r"^## .*[Cc]ost", page, re.MULTILINE)
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", page.split("## Works with")[1].split("\n## ")[0], re.MULTILINE)
    rows = [row for row in rows if row[0] not in ("beside it", "---|---")]
    assert not [verdict for _, verdict in rows if not verdict.startswith(VERDICTS)]
    assert not [name for name in NEIGHBOURS if name not in " ".join(beside for beside, _ in rows)]
