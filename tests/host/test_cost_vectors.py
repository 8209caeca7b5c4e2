"""The vectors that bind what the line on the node says guidance costs (tests/web/budget.test.js) to what a run's report would count."""

import json
from pathlib import Path

import comfy.samplers
import pytest
import tiny_wan
from wan_conductor.guidance.budget import DEFAULT_PRESET, PRESETS, GuidanceBudget
from wan_conductor.guidance.report import GuidanceReport, GuidedStep, LoopHistory
from wan_conductor.host.schedule import guided_intervals
from wan_conductor.nodes.budget_widget import chosen_budget

VECTORS = json.loads((Path(__file__).resolve().parents[1] / "vectors" / "budget.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model_sampling():
    return tiny_wan.load(layers=1).get_model_object("model_sampling")  # Wan: flow, shift 8


def budget_of(vector) -> GuidanceBudget:
    knobs = {"budget": vector["budget"]} if isinstance(vector["budget"], str) else {"budget": "custom", **vector["budget"]}
    budget = chosen_budget(knobs)
    assert budget
    return budget


def whole_loop(budget: GuidanceBudget) -> LoopHistory:
    """A guided step that ends for no other reason than its iterations."""
    forwards = budget.iterations + budget.check_last if budget.iterations else 0
    return LoopHistory((), [], [], [], forwards, budget.iterations)


def test_there_are_vectors_for_every_preset():
    assert set(VECTORS["presets"]) == set(PRESETS) and DEFAULT_PRESET == "fast"
    assert {vector["budget"] for vector in VECTORS["costs"] if isinstance(vector["budget"], str)} == set(PRESETS)


@pytest.mark.parametrize("vector", VECTORS["costs"], ids=lambda vector: vector["name"])
def test_the_guided_steps_are_those_of_the_hosts_own_schedule(model_sampling, vector):
    steps, start, end = vector["run"]
    budget = budget_of(vector)
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, VECTORS["even"], steps)[start : end + 1]
    assert len(guided_intervals(sigmas, model_sampling, budget.start_percent, budget.end_percent)) == vector["guided"]


@pytest.mark.parametrize("vector", VECTORS["costs"], ids=lambda vector: vector["name"])
def test_the_factor_is_what_the_report_would_count(vector):
    budget, (_, start, end) = budget_of(vector), vector["run"]
    step = GuidedStep(0, 1.0, "", [], budget.depth, budget.recomputes, whole_loop(budget))
    report = GuidanceReport(16.0, 13, denoise_forwards=vector["rows"] * (end - start), steps=[step] * vector["guided"])
    assert report.cost_factor == pytest.approx(vector["factor"], abs=1e-6)
