"""Composition Guide as an objective: its loss, what satisfies it, what it measures, beside Temporal Mask in one loop."""

import math

import pytest
import torch
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.composition import STEEPNESS, TRACED_MAPS, Composition
from wan_conductor.guidance.composition_record import composition_records
from wan_conductor.guidance.objective import Objective, PhraseRef, RestOfPrompt, shared_phrases
from wan_conductor.guidance.optimise import optimise_latent
from wan_conductor.guidance.phrases import TokenPieces, rest_of_prompt
from wan_conductor.guidance.report import GuidanceReport, GuidedStep
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.tests.unit.relation_reference import Thing, margins

FRAMES, SIDE = 9, 8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def composition(text="always cat | left of | dog", **knobs):
    return Composition(parse_timeline(text), **knobs)


def bumps(*centres, sigma=0.35, batch=1):
    """Maps "b g f h w" of things that stand at (x, y) or go from one to another, in halves of the side."""
    axis = (2 * torch.arange(SIDE) + 1 - SIDE) / SIDE
    maps = []
    for start, end in ((c if isinstance(c[0], tuple) else (c, c)) for c in centres):
        t = torch.linspace(0, 1, FRAMES)[:, None, None]
        x, y = (s + (e - s) * t for s, e in zip(start, end))
        maps.append(0.002 + 0.02 * torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2)))
    return torch.stack(maps)[None].double().repeat(batch, 1, 1, 1, 1)


def test_it_is_an_objective_with_each_entity_once_in_the_order_of_the_text():
    objective = composition("always cat | left of | dog\n1s - 2s Dog | above | bird")
    assert isinstance(objective, Objective)
    assert objective.phrases == tuple(PhraseRef(words) for words in ("cat", "dog", "bird"))
    assert objective.strength == 1.0


def test_a_motion_also_asks_for_the_rest_of_the_prompt():
    objective = composition("always cat | left of | dog\n0s - end cat | moves left", occurrence="first")
    *entities, rest = objective.phrases
    assert entities == [PhraseRef("cat", "first"), PhraseRef("dog", "first")]
    assert rest == RestOfPrompt(occurrence="first", without=("cat", "dog"))


def test_the_loss_is_the_formula_written_as_loops():
    """Spans, gates, conditions, strengths, margin and presence, against numbers made without the pack's code."""
    text = "0s - 1s  cat | left of | dog x2\nalways  cat | moves right\nalways  cat | beneath | dog"
    objective = composition(text, lambda_presence=0.3, margin=0.2)
    maps = bumps(((-0.5, 0.2), (0.3, 0.3)), (0.4, -0.3)) * (1 + 0.3 * torch.rand(1, 2, FRAMES, SIDE, SIDE))
    things = [Thing(maps[0, g].tolist()) for g in range(2)]
    excess = [
        [sum(max(v - thing.mass[t], 0) for row in thing.frames[t] for v in row) / SIDE**2 for t in range(FRAMES)] for thing in things
    ]

    def log_sigmoid(x):
        return -math.log1p(math.exp(-x))

    def frames(span, who):
        gates = {t: math.prod(max(excess[g][t] / max(excess[g][u] for u in span), 0.1) for g in who) for t in span}
        return {t: gate / sum(gates.values()) for t, gate in gates.items()}

    first = range(0, 5)  # 0s - 1s: pixel frames 0..15, of which latent 4 (13..16) is covered by three quarters
    when = frames(first, (0, 1))
    left = -sum(w * log_sigmoid(STEEPNESS * (margins("left of", things, when, margin=0.2)[t][0] - 0.2)) for t, w in when.items())
    when = frames(range(FRAMES), (0, 1))
    both = margins("beneath", things, when)
    beneath = -sum(
        w * (log_sigmoid(STEEPNESS * (both[t][0] - 0.2)) + log_sigmoid(STEEPNESS * both[t][1])) / 2 for t, w in when.items()
    )
    still = maps[:, :1] * 0 + 0.01  # an even background: no camera
    (way,) = margins("moves right", things[:1], frames(range(FRAMES), (0,)))
    right = -log_sigmoid(STEEPNESS * (way - 0.2))
    presence = -sum(
        math.log(things[g].mass[t]) + math.log(excess[g][t] / things[g].mass[t] + 0.05) for g in (0, 1) for t in range(FRAMES)
    ) / (2 * FRAMES)
    loss = objective.loss(torch.cat([maps, still], dim=1), 16.0)
    torch.testing.assert_close(
        torch.stack(list(loss.terms.values()))[:, 0], torch.tensor([left, right, beneath, presence]).double(), rtol=2e-3, atol=2e-3
    )
    expected = (2 * left + right + beneath) / 2 / 3 + 0.3 * presence
    assert loss.total.item() == pytest.approx(expected, rel=2e-3)
    assert loss.traces["score"][0].tolist() == pytest.approx([math.exp(-left), math.exp(-right), math.exp(-beneath)], abs=2e-3)


def test_satisfied_looks_at_the_worst_constraint_of_each_sample():
    objective = composition("always cat | left of | dog\nalways dog | below | cat", tau=0.8)
    good, half = bumps((-0.5, -0.1), (0.5, 0.1)), bumps((-0.7, 0), (0.7, 0))
    assert objective.loss(torch.cat([good, half]), 16.0).satisfied.tolist() == [False, False]
    objective = composition("always cat | left of | dog", tau=0.8)
    assert objective.loss(torch.cat([bumps((0.5, 0), (-0.5, 0)), half]), 16.0).satisfied.tolist() == [False, True]


def test_presence_asks_for_more_attention_in_one_place():
    objective = composition()
    maps = bumps((-0.6, 0), (0.6, 0)).requires_grad_()
    presence = objective.loss(maps, 16.0).terms["presence"]
    brighter, wider = objective.loss(maps.detach() * 2, 16.0).terms["presence"], bumps((-0.6, 0), (0.6, 0), sigma=0.9)
    assert brighter.item() == pytest.approx(presence.item() - math.log(2))
    wider = wider * maps.detach().mean((-2, -1), keepdim=True) / wider.mean((-2, -1), keepdim=True)
    assert objective.loss(wider, 16.0).terms["presence"] > presence


def test_presence_counts_only_where_a_thing_is_wanted():
    objective = composition("0s - 1s cat | left of | dog")
    maps = bumps((-0.6, 0), (0.6, 0)).requires_grad_()
    gradient, = torch.autograd.grad(objective.loss(maps, 16.0).total.sum(), maps)
    assert gradient[:, :, :5].abs().max() > 0 and gradient[:, :, 5:].abs().max() == 0


def test_a_moving_background_is_taken_off_motions():
    axis = (2 * torch.arange(SIDE) + 1 - SIDE) / SIDE
    pan = torch.stack([2 + torch.sin(4 * (axis + 0.08 * t)) + 0 * axis[:, None] for t in range(FRAMES)])[None, None].double()
    carried = bumps(((0.32, 0), (-0.32, 0)))
    objective = composition("always cat | moves left")
    still, moving = (objective.loss(torch.cat([carried, b], dim=1), 16.0).traces["score"].item() for b in (pan[:, :, :1] + 0 * pan, pan))
    assert still > 0.8 > 0.4 > moving


@pytest.mark.parametrize(
    "knob",
    [{"margin": -0.1}, {"tau": 1.1}, {"lambda_presence": float("nan")}, {"fps": -1.0}, {"start_percent": 2.0}, {"occurrence": "third"}],
)
def test_knobs_out_of_range_are_refused_by_name_and_value(knob):
    (field, value), = knob.items()
    with pytest.raises(ValueError, match=f"Composition Guide.*`{field}` = {value!r}"):
        composition(**knob)


def test_a_wrong_line_is_refused_when_the_objective_is_made():
    with pytest.raises(ValueError, match="Composition Guide: input `timeline`: timeline line 1: unknown relation"):
        composition("always cat | near | dog")


def test_spans_are_checked_against_the_video_and_one_frame_is_skipped():
    assert composition().skip_reason(13, 16.0) is None
    assert "one frame" in composition().skip_reason(1, 16.0)
    for text in ("", "always cat | left of | dog x0"):
        assert "empty" in composition(text).skip_reason(13, 16.0) and composition(text).phrases == ()
    for text in ("9s - 10s cat | left of | dog", "always cat | above | dog\n0f - 1f cat | moves left"):
        with pytest.raises(ValueError, match=f"Composition Guide.*line {text.count(chr(10)) + 1}"):
            composition(text).skip_reason(13, 16.0)


def test_things_in_relation_are_different_words_of_the_prompt():
    objective = composition("always circle | left of | red circle")
    objective.check_prompts([{0: (4,), 1: (1, 2)}, {0: (3,)}])
    with pytest.raises(ValueError, match=r"`circle` and `red circle`.*\(row 2\)"):
        objective.check_prompts([{0: (4,), 1: (1, 2)}, {0: (2,), 1: (1, 2)}])


def test_the_rest_of_a_prompt_is_every_word_of_no_phrase_and_the_end():
    pieces = TokenPieces("a red cat runs", ("▁a", "▁red", "▁cat", "▁runs"), (2, 3, 4, 5), (1.0,) * 4, (0, 1, 2, 3), 24)
    assert rest_of_prompt(pieces, ("red cat", "elephant")) == (0, 3, 4)
    assert rest_of_prompt(pieces, ("a red cat runs",)) == (4,)
    full = TokenPieces("cat", ("▁cat",), (2,), (1.0,), (0,), 1)
    assert rest_of_prompt(full, ("cat",)) == (0,)


def capture_of_stand_in(z):
    """A latent "b 4 f 1 2" that holds x and y of cat and dog (in tenths) and how strongly each is seen; its maps are bumps there."""
    axis = (2 * torch.arange(SIDE) + 1 - SIDE) / SIDE
    x, y, strength = z[:, 0::2, :, :1, :1] * 10, z[:, 1::2, :, :1, :1] * 10, 0.02 * (1 + z[:, 0::2, :, :1, 1:])
    return 0.002 + strength * torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / 0.25)


def test_temporal_mask_and_composition_run_in_one_loop_on_one_capture():
    mask, relation = TemporalMask(parse_timeline("50% - end cat"), lambda_entropy=0.0), composition("always cat | left of | dog")
    phrases, places = shared_phrases([mask, relation])
    assert [ref.phrase for ref in phrases] == ["cat", "dog"] and places == ((0,), (0, 1))
    z = torch.zeros(1, 4, FRAMES, 1, 2)
    z[:, 0], z[:, 2] = 0.03, -0.03  # x of the cat and of the dog, a tenth
    z[..., 1] = 0.01 * torch.randn(1, 4, FRAMES, 1)
    calls, budget = [], GuidanceBudget(iterations=30, step_size=0.01)
    result = optimise_latent(z, lambda latent: calls.append(1) or capture_of_stand_in(latent), [mask, relation], budget, 16.0)
    records = result.history.iterations
    first, last = (record.objectives for record in (records[0], records[-1]))
    assert len(calls) == result.history.forwards == len(records)
    assert [one.name for one in first] == ["Temporal Mask", "Composition Guide"]
    assert last[0].traces["correlation"][0][0] > first[0].traces["correlation"][0][0] + 0.2
    assert last[1].traces["score"][0][0] > 0.9 > 0.1 > first[1].traces["score"][0][0]
    assert (result.z[0, 0, 5:, 0, 0] < result.z[0, 2, 5:, 0, 0]).all()  # where both say something: elsewhere the mask hides the cat


def report_of(objective, batch=2, extra=()):
    z = torch.zeros(batch, 4, FRAMES, 1, 2)
    z[:, 0], z[:, 2] = 0.03, -0.03

    def capture(latent):
        maps = capture_of_stand_in(latent)
        return torch.cat([maps, maps[:, :1] * 0 + 0.01], dim=1) if len(objective.phrases) > len(objective.entities) else maps

    steps = []
    for step in range(2):
        result = optimise_latent(z, capture, [*extra, objective], GuidanceBudget(iterations=3, step_size=0.01), 16.0)
        phrases = [[ref.phrase for ref in one.phrases] for one in (*extra, objective)]
        steps.append(GuidedStep(step, 1.0, "model", phrases, 1.0, True, result.history))
        z = result.z
    return GuidanceReport(fps=16.0, latent_frames=FRAMES, sampler="euler", steps=steps)


def test_the_record_tells_each_video_before_and_after_and_survives_json():
    report = report_of(composition("always cat | left of | dog\n0s - 1s cat | moves left"))
    records = list(composition_records(GuidanceReport.from_json(report.to_json())))
    assert [record.sample for record in records] == [0, 1] and records == list(composition_records(report))
    record = records[0]
    assert record.constraints == ["cat | left of | dog (always)", "cat | moves left (0s - 1s)"] and record.entities == ["cat", "dog"]
    assert record.frame == [1.0, 1.0] and record.spans[1] == [1.0] * 5 + [0.0] * 4
    assert [step.step for step in record.steps] == [0, 1] and len(record.steps[0].scores) == 4
    assert record.before.centres[0][-1][0] > 0.2 > record.after.centres[0][-1][0]
    assert record.after.scores[0] == record.steps[1].scores[record.steps[1].kept][0] > record.before.scores[0]
    assert len(record.after.maps) == 2 and len(record.after.maps[0]) == TRACED_MAPS[0] and len(record.after.camera) == FRAMES
    assert "worst score" in report.summary()


def test_the_record_of_a_run_without_composition_is_empty():
    assert list(composition_records(GuidanceReport(fps=16.0, latent_frames=FRAMES))) == []


def test_the_picture_shows_scores_paths_and_maps():
    from wan_conductor.guidance.composition_pictures import composition_figure

    report = report_of(composition("always cat | left of | dog"), batch=1)
    (record,) = composition_records(report)
    picture = composition_figure(record)
    assert picture.shape[1:] == (700, 3) and picture.shape[0] > 350 and picture.std() > 20
    blue, orange = (0, 114, 178), (213, 94, 0)
    for colour in (blue, orange):  # the paths of both things
        assert (abs(picture.astype(int) - colour).sum(-1) < 40).sum() > 30


def test_frames_whose_prompts_do_not_name_a_thing_have_no_say():
    """Multi Prompt Blend: where a window's prompt lacks it, its attention is exactly 0. The first frames alone give the same."""
    maps = torch.rand(1, 3, 9, 6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    maps[:, 1, 5:] = 0
    for relation in ("a | left of | b", "a | toward | b", "a | inside | b"):
        cut = composition(f"0f - 17f  {relation}").loss(maps, 16.0)
        whole = composition(f"always  {relation}").loss(maps, 16.0)
        torch.testing.assert_close(whole.traces["score"], cut.traces["score"])
    alone = composition("always  a | left of | b").loss(maps[:, :, :5], 16.0).terms["presence"]
    assert (whole.terms["presence"] - alone).abs() < 0.5  # a, in four frames more; not 18 for attention that nobody asked for


def test_things_that_no_prompt_of_the_span_names_together_are_refused():
    maps = torch.rand(2, 2, 9, 6, 8, generator=torch.Generator().manual_seed(3)) + 0.1
    maps[:, 1, 5:] = 0
    refusal = r"Composition Guide: input `timeline`: `a \| left of \| b .*name a and b: write them into one prompt"
    with pytest.raises(ValueError, match=refusal):
        composition("50% - end  a | left of | b").loss(maps, 16.0)


def test_a_picture_has_no_path_where_no_prompt_names_a_thing():
    from wan_conductor.guidance.composition_pictures import last_of, path
    from wan_conductor.guidance.composition_record import SceneRecord

    maps = torch.rand(1, 2, 9, 6, 8, generator=torch.Generator().manual_seed(3)) + 0.1
    maps[:, 1, 5:] = 0
    centres = composition("always  a | left of | b").loss(maps, 16.0).traces["centre"][0].tolist()
    assert torch.tensor(centres).isfinite().all(-1).sum(-1).tolist() == [9, 5]
    told = [[None if value != value else value for value in place] for place in centres[1]]
    scene = SceneRecord([], [[], told], [], [], [])
    x, y = last_of(*path(scene, 1))
    assert [[*x, *y]] == centres[1][4:5]
    assert not len(last_of(*path(SceneRecord([], [[[None, None]]], [], [], []), 0))[0])  # named nowhere
