"""Composition Guide and Composition Report as nodes, and the guidance in the host's own sampling, alone and beside Temporal Mask."""

import json
from pathlib import Path

import pytest
import tiny_wan
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.composition import Composition
from wan_conductor.guidance.objective import PhraseRef, RestOfPrompt
from wan_conductor.guidance.phrases import TokenPieces
from wan_conductor.guidance.relations import RELATIONS
from wan_conductor.guidance.report import GuidanceReport, SkippedStep
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host import capture as captures
from wan_conductor.host.attach import attached
from wan_conductor.host.latent_edit import rows_of_entries
from wan_conductor.nodes.composition_guide import TIMELINE, CompositionGuideNode
from wan_conductor.nodes.composition_report import CompositionReport
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.temporal_mask import TemporalMaskNode
from wan_conductor.playground import network

WEB = Path(__file__).parents[2] / "web"
STEPS = 4
TEXT = "a red cat jumps near a blue dog"
LEFT = "always  red cat | left of | blue dog"
CUSTOM = {
    "start_percent": 0.0, "end_percent": 0.5, "iterations": 3, "step_size": 0.05, "growth": 1.0, "depth": 1.0, "memory_mode": "balanced",
    "patience": 0
}
with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


@pytest.fixture(scope="module")
def low():
    return tiny_wan.load(layers=2, seed=5)


def guide(model, timeline=LEFT, conditioning=None, **knobs):
    return CompositionGuideNode.execute(model, conditioning or prompt(TEXT), timeline, **knobs)


def text_of(output):
    return output.ui.as_dict()["text"][0]


def guided(model, low=None, batch=1, positive=None, budget=None):
    empty = {"samples": torch.zeros(batch, 16, 5, 6, 6)}
    return GuidedKSampler.execute(
        model, "enable", 7, STEPS, 3.0, "euler", "simple", positive or prompt(TEXT), prompt("bad", seed=2), empty, 0, 10000, "disable",
        budget or {"budget": "custom", **CUSTOM}, {"switch_at": "t2v"}, model_low_noise=low,
    ).args


def test_the_node_attaches_the_objective_with_its_knobs_and_the_nodes_defaults_are_the_methods(model):
    (objective,) = attached(guide(model).args[0].model_options)
    assert objective == Composition(parse_timeline(LEFT))
    knobs = {"margin": 0.3, "lambda_presence": 0.5, "tau": 0.7, "fps": 8.0}
    (objective,) = attached(guide(model, occurrence=" First ", **knobs).args[0].model_options)
    assert {name: getattr(objective, name) for name in knobs} == knobs and objective.occurrence == "first"
    defaults = {one.id: one.default for one in CompositionGuideNode.GET_SCHEMA().inputs if hasattr(one, "default")}
    own = Composition(parse_timeline(LEFT))
    assert all(defaults[name] == getattr(own, name) for name in ("margin", "lambda_presence", "tau"))


def test_it_shows_what_it_found_and_what_is_to_hold(model):
    lines = text_of(guide(model, f"{LEFT}  x1.5\n0s - 0.5s  red cat | moves left")).splitlines()
    assert lines == [
        "red cat: ▁red ▁cat (rows 1, 2)", "blue dog: ▁blue ▁dog (rows 6, 7)", "red cat left of blue dog  |  always x1.5",
        "red cat moves left  |  0s - 0.5s", "seconds at 16 fps",
    ]


def test_pasted_spans_and_bullets_are_read_but_bars_stay_bars(model):
    output = guide(model, "- red cat | left of | blue dog\n- red cat | above | blue dog")
    assert [str(one) for one in attached(output.args[0].model_options)[0].constraints] == [
        "red cat | left of | blue dog (0% - 50%)", "red cat | above | blue dog (50% - end)"
    ]
    assert "read as:\nred cat | left of | blue dog\nred cat | above | blue dog" in text_of(output)


def test_the_default_timeline_parses(model):
    output = guide(model, TIMELINE, prompt("a cat near a dog"))
    assert [one.relation.name for one in attached(output.args[0].model_options)[0].constraints] == ["left of", "toward"]


@pytest.mark.parametrize("timeline", ["", "# nothing yet", f"{LEFT} x0"])
def test_a_timeline_that_asks_for_nothing_returns_the_very_models(model, low, timeline):
    output = guide(model, timeline, model_low_noise=low)
    assert output.args[0] is model and output.args[1] is low and "unchanged" in text_of(output)


def test_both_experts_carry_one_objective_and_without_a_second_the_output_says_what_to_connect(model, low):
    pair = guide(model, model_low_noise=low).args
    assert attached(pair[0].model_options)[0] is attached(pair[1].model_options)[0]
    assert isinstance(guide(model).args[1], ExecutionBlocker) and "model_low_noise" in guide(model).args[1].message


@pytest.mark.parametrize(
    "change, words",
    [
        ({"timeline": "always  red cat | left of | bleu dog"}, ["input `conditioning`", "bleu dog", "blue dog", "▁blue"]),
        ({"timeline": "always  red cat | left of | RED  cat"}, ["line 1", "in a relation to itself"]),
        ({"timeline": "always  red cat | left of | cat"}, ["same word of the prompt (row 2)"]),
        ({"timeline": "always  red cat | lefft of | blue dog"}, ["nearest is `left of`", *(r.name for r in RELATIONS)]),
        ({"timeline": f"{LEFT}\nalways  red cat near blue dog"}, ["line 2", "no relation", "^"]),
        ({"timeline": "2s - 1s  red cat | left of | blue dog"}, ["line 1", "reversed", "^"]),
        ({"conditioning": tiny_wan.conditioning()}, ["Conductor Text Encode"]),
        ({"occurrence": "third"}, ["third"]),
        ({"margin": 2.0}, ["`margin` = 2.0"]),
    ],
    ids=str,
)
def test_bad_input_is_refused_by_the_node_itself(model, change, words):
    with pytest.raises(ValueError) as caught:
        guide(model, **change)
    assert str(caught.value).startswith("Composition Guide") and all(word in str(caught.value) for word in words)


def test_a_span_outside_the_video_is_refused_with_its_line_before_sampling(model):
    with pytest.raises(ValueError, match="Composition Guide.*line 1.*starts after the end"):
        guided(guide(model, "9s - 10s  red cat | left of | blue dog").args[0])


def test_a_model_that_is_not_wan_is_refused_by_name():
    class Flux:
        model = None

    with pytest.raises(ValueError, match="Composition Guide.*Wan"):
        guide(Flux())


def test_the_rest_of_the_prompt_is_looked_up_in_each_entry():
    rest = RestOfPrompt(without=("red cat", "blue dog"))
    entries = [*prompt("a red cat jumps"), *prompt("a blue dog", seed=3)]
    cat, dog, others = range(3)
    found = rows_of_entries(entries, (PhraseRef("red cat"), PhraseRef("blue dog"), rest))
    assert found == [{cat: (1, 2), others: (0, 3, 4)}, {dog: (1, 2), others: (0, 3)}]


def test_scores_rise_over_the_guided_steps(model):
    out, report = guided(guide(model).args[0])
    scores = [record.objectives[0].traces["score"][0][0] for step in report.steps for record in step.loop.iterations]
    assert len(report.steps) == 2 and scores[-1] > scores[0] + 0.1
    assert not torch.equal(out["samples"], guided(model)[0]["samples"])


def test_a_motion_measures_the_rest_of_the_prompt_in_the_same_pass(model):
    _, report = guided(guide(model, "always  red cat | moves left").args[0])
    step = report.steps[0]
    assert step.phrases == [["red cat", "(rest of the prompt)"]] and step.loop.forwards <= 4
    assert len(step.loop.iterations[0].objectives[0].traces["centre"][0]) == 1


@pytest.mark.parametrize("timeline, budget", [("", None), (f"{LEFT} x0", None), (LEFT, {"budget": "custom", **CUSTOM, "iterations": 0})])
def test_off_is_the_stock_sampler_bit_for_bit(model, timeline, budget):
    ours = guided(guide(model, timeline).args[0], budget=budget)[0]["samples"]
    assert torch.equal(ours, guided(model)[0]["samples"])


def test_a_batch_is_optimised_video_by_video(model):
    _, report = guided(guide(model).args[0], batch=2)
    record = report.steps[0].loop.iterations[0].objectives[0]
    assert len(record.traces["score"]) == 2 and record.traces["score"][0] != record.traces["score"][1]


@with_weights
@pytest.mark.parametrize("first", ["mask", "relations"])
def test_temporal_mask_and_composition_guide_share_one_loop_and_one_capture_on_the_playground(first, monkeypatch):
    from wan_conductor.host.tokens import encode_with_tokens
    from wan_conductor.playground import sockets
    from wan_conductor.playground.sampling import LATENT_SHAPE

    model, clip = sockets.load_model(), sockets.load_clip()
    positive, negative = (encode_with_tokens(clip, words) for words in ("a red circle and a blue square", ""))
    nodes = [
        lambda model: TemporalMaskNode.execute(model, positive, "1s - end  red circle", 0.3, 10.0).args[0],
        lambda model: guide(model, "always  red circle | left of | blue square\nalways  red circle | moves up", positive).args[0],
    ]
    for node in nodes if first == "mask" else nodes[::-1]:
        model = node(model)
    calls, evaluate = [], captures.AttentionCapture.__call__
    monkeypatch.setattr(captures.AttentionCapture, "__call__", lambda own, *args: calls.append(len(args[3])) or evaluate(own, *args))
    budget = {"budget": "custom", **CUSTOM, "end_percent": 0.3, "step_size": 0.02}
    _, report = GuidedKSampler.execute(
        model, "enable", 3, 6, 4.0, "euler", "simple", positive, negative, {"samples": torch.zeros(1, *LATENT_SHAPE)}, 0, 10000, "disable",
        budget, {"switch_at": "t2v"},
    ).args
    names = ["Temporal Mask", "Composition Guide"][:: 1 if first == "mask" else -1]
    assert all([one.name for one in record.objectives] == names for step in report.steps for record in step.loop.iterations)
    assert set(calls) == {3}  # red circle once for both, blue square, the rest of the prompt
    assert len(calls) == sum(step.loop.forwards for step in report.steps) <= 4 * len(report.steps)
    start, end = report.steps[0].loop.iterations[0], report.steps[-1].loop.after(0)
    for before, after in zip(start.objectives, end.objectives):
        assert after.loss[0] < before.loss[0]
    at = names.index("Composition Guide")
    assert min(end.objectives[at].traces["score"][0]) > min(start.objectives[at].traces["score"][0]) + 0.3
    assert end.objectives[1 - at].traces["correlation"][0][0] > start.objectives[1 - at].traces["correlation"][0][0] + 0.3


def test_the_report_draws_a_picture_for_each_video_with_the_numbers_as_json(model, host_folders):
    _, report = guided(guide(model).args[0], batch=2)
    output = CompositionReport.execute(report, "wan/composition")
    images, told = output.result
    records = json.loads(told)
    assert images.shape[0] == len(records) == 2 and images.shape[2:] == (700, 3) and 0 <= images.min() < images.max() <= 1
    assert records[0]["constraints"] == ["red cat | left of | blue dog (always)"] and records[0]["entities"] == ["red cat", "blue dog"]
    assert len(records[0]["after"]["centres"][0]) == 5 and records[0]["steps"][0]["scores"][0][0] == records[0]["before"]["scores"][0]
    names = sorted(path.name for path in (host_folders / "output" / "wan").iterdir())
    assert names == ["composition_00001_.json", "composition_00001_.png", "composition_00002_.png"]


def test_two_guides_in_a_row_are_drawn_apart(model, host_folders):
    _, report = guided(guide(guide(model).args[0], "always  blue dog | moves up").args[0])
    records = json.loads(CompositionReport.execute(report).result[1])
    assert [one["entities"] for one in records] == [["red cat", "blue dog"], ["blue dog"]]


@pytest.mark.parametrize(
    "report, words",
    [
        (GuidanceReport(fps=16.0, latent_frames=5), "no step lay in the guided span"),
        (GuidanceReport(fps=16.0, latent_frames=1, skipped=[SkippedStep(None, "Composition Guide: one frame is no video")]), "one frame"),
    ],
)
def test_a_run_without_composition_shows_why(report, words, host_folders, monkeypatch):
    from wan_conductor.guidance import pictures

    said, message = [], pictures.message
    monkeypatch.setattr(pictures, "message", lambda text, *size: said.append(text) or message(text, *size))
    images, told = CompositionReport.execute(report).result
    assert images.shape == (1, 450, 700, 3) and told == "[]" and words in said[0]


def test_the_help_page_names_every_relation():
    page = (WEB / "docs" / "WanConductorCompositionGuide.md").read_text(encoding="utf-8")
    assert not [relation.name for relation in RELATIONS if relation.name not in page]


def test_the_timeline_view_knows_the_node_and_its_input():
    listed = (WEB / "timeline.js").read_text(encoding="utf-8")
    schema = CompositionGuideNode.GET_SCHEMA()
    assert f"{schema.node_id}: {{ bullets: true, relations: true }}" in listed and "timeline" in {one.id for one in schema.inputs}


def test_stacked_with_a_temporal_mask_on_a_random_wan_both_are_guided_once(model):
    from wan_conductor.host.attach import attach

    both = attach(guide(model).args[0], temporal_mask("50% - end  red cat"))
    _, report = guided(both)
    names = [[one.name for one in step.loop.iterations[0].objectives] for step in report.steps]
    assert names == [["Composition Guide", "Temporal Mask"]] * 2


def test_an_embedding_in_the_prompt_is_part_of_the_rest():
    from wan_conductor.guidance.phrases import rest_of_prompt

    pieces = TokenPieces("cat", ("<embedding>", "▁cat"), (None, 5), (1.0, 1.0), (0, 1), 24)
    assert rest_of_prompt(pieces, ("cat",)) == (0, 2)
