"""`playground evaluate composition`: its verdicts on drawn videos whose truth is known, and the keys that scripts read."""

import json
import math

import numpy as np
import pytest
import torch
from wan_conductor.guidance.composition import Composition
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.tokens import encode_with_tokens
from wan_conductor.playground import evaluate, network, world
from wan_conductor.playground.evaluate_composition import CASES, UNTOLD, WORDS, clips_of, constraint_text, figures_of, judge, looks

FRAMES = world.LATENT_FRAMES
COLORS = ("red", "blue", "green")
with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


def drawn(*tracks, visible=None, shape="circle"):
    """A canvas video of a red, a blue, a green thing: x, y and r (2 if not said) in cells, each a number, (start, end), or one a frame."""
    along = lambda v: np.broadcast_to(np.linspace(*v, FRAMES) if isinstance(v, tuple) else np.asarray(v, float), (FRAMES,))  # noqa: E731
    subjects = []
    for index, (color, (x, y, *r)) in enumerate(zip(COLORS, tracks)):
        seen = np.ones(FRAMES) if visible is None else np.asarray(visible[index], dtype=float)
        subjects.append(world.Subject(color, shape, (world.STILL,), along(x), along(y), along(r[0] if r else 2.0), seen))
    return world.draw([world.Clip(tuple(subjects), "", ())])[0]


def verdict(name, video):
    return judge(video, CASES[name], COLORS[: CASES[name].things])["accuracy"]


HALF = FRAMES // 2
CORNER = ([3.0 + t for t in range(HALF)] + [9.0] * (FRAMES - HALF), [12.0] * HALF + [12.0 - t for t in range(FRAMES - HALF)])
THERE_AND_BACK = (np.concatenate([np.linspace(3, 12, HALF + 1), np.linspace(12, 3, FRAMES - HALF - 1)]), 8)
SHOWN = {
    "left of": [(3, 8), (12, 9)],
    "right of": [(12, 8), (3, 9)],
    "above": [(8, 3), (9, 12)],
    "below": [(8, 12), (9, 3)],
    "beneath": [(8, 12), (9, 4)],
    "between": [(8, 9), (3, 8), (13, 8)],
    "moves left": [((12, 4), 8)],
    "moves right": [((4, 12), 8)],
    "moves up": [(8, (12, 4))],
    "moves down": [(8, (4, 12))],
    "grows": [(8, 8, (2, 4))],
    "shrinks": [(8, 8, (4, 2))],
    "toward": [((3, 8), 8), (13, 8)],
    "away": [((8, 3), 8), (13, 8)],
    "turns": [CORNER],
}
NOT_SHOWN = {
    "left of": ["right of", "above", "below"],
    "right of": ["left of", "above"],
    "above": ["below", "left of", "right of"],
    "below": ["above", "left of"],
    "beneath": ["above", "left of", "right of"],
    "moves left": ["moves right", "moves up", "grows"],
    "moves right": ["moves left", "moves down", "shrinks"],
    "moves up": ["moves down", "moves left"],
    "moves down": ["moves up", "moves right"],
    "grows": ["shrinks", "moves left"],
    "shrinks": ["grows", "moves up"],
    "toward": ["away", "left of"],
    "away": ["toward", "left of"],
    "turns": ["moves right", "moves up", "grows"],
}


@pytest.mark.parametrize("name", CASES)
def test_a_drawn_relation_is_seen_and_its_opposites_are_not(name):
    assert verdict(name, drawn(*SHOWN[name])) == 1.0
    for other in NOT_SHOWN.get(name, ()):
        assert verdict(name, drawn(*SHOWN[other])) == 0.0


def test_there_is_a_drawing_for_every_relation_and_they_are_eight_at_least():
    assert set(SHOWN) == set(CASES) and len(CASES) >= 8


def test_beneath_needs_more_than_below_and_between_the_middle():
    assert verdict("beneath", drawn((3, 12), (12, 4))) == 0.0
    assert verdict("below", drawn((7, 12), (12, 4))) == 1.0
    for tracks in ([(3, 8), (8, 8), (13, 8)], [(8, 2), (4, 9), (12, 9)]):
        assert verdict("between", drawn(*tracks)) == 0.0


def test_there_and_back_is_a_turn_and_a_short_way_is_none():
    assert verdict("turns", drawn(THERE_AND_BACK)) == 1.0
    assert verdict("turns", drawn((np.concatenate([np.linspace(7, 8, 7), np.linspace(8, 7, 6)]), 8))) == 0.0


def test_a_state_is_judged_frame_by_frame_where_all_are_present():
    switching = drawn(([3.0] * 4 + [13.0] * 9, 8), (8, 8))
    assert verdict("left of", switching) == pytest.approx(4 / FRAMES)
    seen = [[1] * 8 + [0] * 5, [1] * FRAMES]
    hidden = judge(drawn(([3.0] * 4 + [13.0] * 9, 8), (8, 8), visible=seen), CASES["left of"], COLORS[:2])
    assert hidden == {"accuracy": pytest.approx(4 / 8), "presence": pytest.approx(8 / FRAMES)}


def test_what_is_not_shown_has_no_accuracy_but_a_presence_of_none():
    for name, seen in (("left of", [[0] * FRAMES, [1] * FRAMES]), ("moves left", [[1] + [0] * (FRAMES - 1)])):
        judged = judge(drawn(*SHOWN[name], visible=seen), CASES[name], COLORS[: CASES[name].things])
        assert math.isnan(judged["accuracy"]) and judged["presence"] == sum(seen[0]) / FRAMES


@pytest.mark.parametrize("name", world.RELATIONS)
def test_truth_agrees_with_the_worlds_own_on_its_clips(name):
    import random

    rng, agreed = random.Random(3), []
    while len(agreed) < 30:
        clip = world.sample_clip(rng, "several", objects=2)
        if clip.relation and all(s.visible.any() for s in clip.subjects) and (clip.subjects[0].visible * clip.subjects[1].visible).any():
            got = judge(world.draw([clip])[0], CASES[name], [s.color for s in clip.subjects])["accuracy"]
            gap = abs(abs(clip.subjects[0].x[0] - clip.subjects[1].x[0]) - abs(clip.subjects[0].y[0] - clip.subjects[1].y[0]))
            if gap > 1.5:  # drawing rounds places to half cells
                agreed.append(got == (clip.relation == name))
    assert all(agreed)


@pytest.mark.parametrize("name", CASES)
def test_captions_are_held_out_distinct_and_ask_for_the_relation(name):
    clips = clips_of(CASES[name], 6, "1")
    captions = [clip.caption for clip in clips]
    assert len(set(captions)) == 6 and all(map(world.is_held_out, captions))
    assert captions == [clip.caption for clip in clips_of(CASES[name], 6, "1")] != [clip.caption for clip in clips_of(CASES[name], 6, "2")]
    words = {"grows": "gets bigger", "shrinks": "gets smaller", "beneath": "below", "turns": " then ", "between": " and "}.get(name, name)
    assert name in ("toward", "away") or all(words in caption for caption in captions)
    (one,) = Composition(parse_timeline(constraint_text(name, CASES[name], clips[0]))).constraints
    assert one.relation.name == name and one.entities == tuple(s.name for s in clips[0].subjects[: CASES[name].things])


@pytest.mark.parametrize("name", UNTOLD)
def test_untold_captions_leave_the_relation_open(name):
    clips = clips_of(UNTOLD[name], 12, "1")
    assert len({clip.caption for clip in clips}) == 12 and all(world.is_held_out(clip.caption) for clip in clips)
    assert not any(words in clip.caption for clip in clips for words in world.RELATIONS)
    if UNTOLD[name].halved:
        first = [clip.phrases[1][0] == WORDS.get(name, name) for clip in clips]
        assert any(first) and not all(first) and all(WORDS.get(name, name) in clip.caption for clip in clips)


def test_half_a_clip_is_judged_where_its_first_event_happens_and_is_what_guidance_asks_about():
    case, there_and_back = UNTOLD["moves right"], drawn(THERE_AND_BACK)
    assert judge(there_and_back, case, COLORS[:1])["accuracy"] == 1.0
    assert judge(there_and_back, CASES["moves right"], COLORS[:1])["accuracy"] == 0.0
    assert judge(there_and_back.flip(0), UNTOLD["moves left"], COLORS[:1])["accuracy"] == 0.0
    (clip,) = clips_of(case, 1, "1")
    (one,) = Composition(parse_timeline(constraint_text("moves right", case, clip))).constraints
    assert one.frames(FRAMES, 16.0).nonzero().flatten().tolist() == list(range(len(case.seen_of(there_and_back))))


def test_looks_see_a_wrong_shape_and_a_thing_that_is_drawn_twice():
    video = drawn((3, 8), (12, 9), shape="square")
    subjects = [world.Subject(color, "square", (world.STILL,), *np.zeros((4, FRAMES))) for color in COLORS[:2]]
    assert looks(video, subjects) == {"shape": 1.0, "once": 1.0}
    assert looks(drawn((3, 8), (12, 9), shape="cross"), subjects) == {"shape": 0.0, "once": 1.0}
    video[:4, :, :4, :6] = torch.tensor(world.COLORS["blue"])[:, None, None]
    video[4:6, :, :2, 7:8] = torch.tensor(world.COLORS["blue"])[:, None, None]  # a speck is no thing
    assert looks(video, subjects)["once"] == pytest.approx((FRAMES - 4 + FRAMES) / (2 * FRAMES))
    nothing = torch.tensor(world.BACKGROUND)[:, None, None].expand(FRAMES, 3, world.CANVAS, world.CANVAS)
    assert all(math.isnan(value) for value in looks(nothing, subjects).values())


def test_figures_leave_out_what_could_not_be_judged_and_keep_relations_apart():
    values = [{"accuracy": a, "presence": p} for a, p in ((1.0, 1.0), (math.nan, 0.0), (0.0, 0.5), (0.5, 0.5))]
    told = figures_of(values, [0, 0, 1, 1], ["left of", "left of", "turns", "turns"])
    assert told["accuracy"] == 0.5 and told["presence"] == 0.5 and told["judged"] == 3
    assert told["by_relation"] == {"left of": 1.0, "turns": 0.25} and told["presence_by_relation"] == {"left of": 0.5, "turns": 0.5}
    assert set(told["interval"]["by_relation"]) == {"left of", "turns"} and len(told["interval"]["accuracy"]) == 2


@with_weights
def test_the_command_prints_the_keys_that_scripts_read(capsys):
    evaluate.main(["composition", "--json", "--captions", "2", "--seeds", "1", "--steps", "2", "--relations", "left of", "moves left"])
    result = json.loads(capsys.readouterr().out)
    for variant in ("plain", "analytic"):
        assert {"accuracy", "by_relation", "presence", "interval"} <= set(result[variant])
        assert set(result[variant]["by_relation"]) == {"left of", "moves left"}
    assert result["captions"] == 2 and "classifier" not in result and "minus_plain" in result["analytic"]


@with_weights
def test_a_classifier_guides_what_it_knows_and_its_leakage_gap_is_told(capsys, tmp_path):
    from wan_conductor.guidance.classifier import SIZES, Classifier, CompositionNetwork
    from wan_conductor.guidance.classifier_file import save_classifier
    from wan_conductor.guidance.labels import KNOWN_LABELS, named
    from wan_conductor.host.map_features import model_identity, planned
    from wan_conductor.playground import sockets
    from wan_conductor.playground.sampling import LATENT_SHAPE

    model, labels = sockets.load_model(), tuple(named(KNOWN_LABELS, name) for name in ("left of", "right of"))
    plan = planned(model, (1, *LATENT_SHAPE), (0.1, 0.2))
    with torch.inference_mode(False):
        classifier = CompositionNetwork(plan, SIZES["small"], labels)
    told = {"accuracy": {"leakage_gap": 0.01}}
    save_classifier(Classifier(classifier, "small", plan, labels, model_identity(model), told), tmp_path / "one.safetensors")
    few = ["--captions", "2", "--seeds", "1", "--steps", "2", "--iterations", "1", "--relations", "left of", "moves left"]
    evaluate.main(["composition", *few, "--classifier", str(tmp_path / "one.safetensors")])
    result = json.loads(capsys.readouterr().out)
    assert set(result["classifier"]["by_relation"]) == {"left of"} and set(result["analytic"]["by_relation"]) == {"left of", "moves left"}
    assert result["leakage_gap"] == 0.01 and "minus_plain" in result["classifier"] and "minus_plain" not in result["plain"]


@with_weights
def test_every_case_finds_its_things_in_its_captions():
    from wan_conductor.host.latent_edit import rows_of_entries
    from wan_conductor.playground import sockets

    clip_model = sockets.load_clip()
    for name in CASES:
        for clip in clips_of(CASES[name], 2, "5"):
            guidance = Composition(parse_timeline(constraint_text(name, CASES[name], clip)))
            rows = rows_of_entries(encode_with_tokens(clip_model, clip.caption), guidance.entities)
            guidance.check_prompts(rows)
            assert guidance.skip_reason(FRAMES, 16.0) is None and len(rows[0]) == CASES[name].things


def test_noise_in_the_picture_does_not_change_the_verdicts():
    noise = torch.randn(FRAMES, 3, world.CANVAS, world.CANVAS, generator=torch.Generator().manual_seed(0))
    for name in CASES:
        assert verdict(name, drawn(*SHOWN[name]) + 0.05 * noise) == 1.0
