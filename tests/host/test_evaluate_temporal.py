"""`playground evaluate temporal`: what it sweeps, its verdicts on drawn videos whose truth is known, and the keys that scripts read."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from wan_conductor.guidance.budget import PRESETS
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.temporal_bias import TemporalBias
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.playground import evaluate, evaluate_beats, evaluate_movement, evaluate_temporal, network, world
from wan_conductor.playground.evaluate_temporal import Variant

with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")
BASE = Variant(PRESETS["fast"], knobs={"tau_corr": 0.8})


def drawn(clip, **changes):
    """The video of a one-object clip whose subject has other tracks."""
    return world.draw([replace(clip, subjects=(replace(clip.subjects[0], **changes),))])


def test_a_sweep_changes_its_own_knob_alone():
    fields = {"l": "iterations", "k": "end_percent"}
    knobs = {"tau_corr": "tau_corr", "lambda_1": "lambda_magnitude", "lambda_2": "lambda_entropy"}
    for name, values in evaluate_temporal.SWEEPS.items():
        for value, variant in evaluate_temporal.sweep_variants(name, BASE, steps=20).items():
            if name in fields:
                wanted = float(value) / 20 if name == "k" else int(value)
                assert variant == replace(BASE, budget=replace(BASE.budget, **{fields[name]: wanted}))
            else:
                assert variant == replace(BASE, knobs={"tau_corr": 0.8, knobs[name]: float(value)})
        assert len(values) == len(set(values)) >= 5


def test_the_ablation_is_the_papers_which_knows_no_anchor():
    variants = evaluate_temporal.ablation_variants(Variant(PRESETS["fast"], knobs={"anchor": True, "tau_corr": 0.8}))
    masks = {name: variant.guidance(TemporalMask(parse_timeline("0s - 1s red")))[0] for name, variant in variants.items()}
    terms = {name: (mask.lambda_correlation, mask.lambda_magnitude, mask.lambda_entropy) for name, mask in masks.items()}
    assert terms == {"C": (1, 0, 0), "E": (0, 0, 10), "C+E": (1, 0, 10), "C+E+M": (1, 0.3, 10)}  # section 4
    assert {(mask.anchor, mask.tau_corr) for mask in masks.values()} == {(False, 0.8)}


def test_a_variant_guides_in_its_mode_with_its_knobs():
    mask = TemporalMask(parse_timeline("1s - 2s cat"))
    kinds = {"gradient": [TemporalMask], "bias": [TemporalBias], "both": [TemporalMask, TemporalBias]}
    for mode, expected in kinds.items():
        guidance = replace(BASE, mode=mode, bias_strength=2.5, bias_end=0.6, bias_depth=0.8).guidance(mask)
        assert [type(one) for one in guidance] == expected
        for one in guidance:
            if isinstance(one, TemporalBias):
                assert (one.strength, one.end_percent, one.depth) == (2.5, 0.6, 0.8)
            else:
                assert one.tau_corr == 0.8


def test_drawn_windows_are_right_and_turned_ones_are_not():
    (clip,) = evaluate_temporal.clips_of(1, 1, 3)
    window = np.array([0.0] * 5 + [1.0] * 8)
    video = drawn(clip, visible=window)
    color = clip.subjects[0].color
    (right,) = evaluate_temporal.judge(clip, {color: window}, video, video)
    (wrong,) = evaluate_temporal.judge(clip, {color: 1 - window}, video, video)
    assert (right["accuracy"], right["presence"], right["absence"], right["joint"]) == (1, 1, 1, 1)
    assert (wrong["accuracy"], wrong["presence"], wrong["absence"], wrong["joint"]) == (0, 0, 0, 0)


def moving(clip, event, window):
    """A drawn video of one object that does `event` between the latent frames of `window` alone."""
    dx, dy, scale = world.track((event,), 6.0, window)
    middle, r = world.CANVAS / 2, 2.5
    return drawn(clip, x=middle + dx - dx[-1] / 2, y=middle + dy - dy[-1] / 2, r=r * scale, visible=np.ones(world.LATENT_FRAMES))


@pytest.mark.parametrize("event", world.MOTIONS)
def test_a_drawn_movement_is_right_in_its_second_and_wrong_in_the_others_and_backwards(event):
    (clip,) = evaluate.held_out("motion", 1, 3)
    name = clip.subjects[0].name
    for second, (a, b) in enumerate(evaluate_movement.SECONDS):
        video = moving(clip, event, (a - 1, b - 1))
        for asked in range(3):
            (row,) = evaluate_movement.judge_movement(name, event, asked, video, video)
            assert row["accuracy"] == (asked == second)
            assert row["share"] == pytest.approx(float(asked == second), abs=0.2)
            assert row["moves"] == row["there"] == 1 and row["background_change"] == 0
        (row,) = evaluate_movement.judge_movement(name, event, second, video.flip(1), video)
        assert row["accuracy"] == row["moves"] == 0


def test_an_object_that_stays_still_or_is_missing_does_not_move():
    (clip,) = evaluate.held_out("motion", 1, 3)
    name = clip.subjects[0].name
    middle = np.full(world.LATENT_FRAMES, world.CANVAS / 2)
    still = drawn(clip, x=middle, y=middle, r=0.3 * middle, visible=np.ones(world.LATENT_FRAMES))
    gone = drawn(clip, visible=np.zeros(world.LATENT_FRAMES))
    for video, there in ((still, 1.0), (gone, 0.0)):
        (row,) = evaluate_movement.judge_movement(name, "moves right", 0, video, video)
        assert row["accuracy"] == row["moves"] == 0 and row["there"] == there


def test_the_verb_has_its_second_and_the_subject_all_of_the_video():
    for second, (a, b) in enumerate(evaluate_movement.SECONDS):
        mask = TemporalMask(parse_timeline(evaluate_movement.movement_timeline("red circle", "moves up", second)), mask="binary")
        assert mask.phrases == (PhraseRef("moves up"), PhraseRef("red circle"))
        verb, subject = mask.masks(world.LATENT_FRAMES, 16.0)
        assert verb.tolist() == [float(a <= j < b) for j in range(world.LATENT_FRAMES)]
        assert subject.tolist() == [1.0] * world.LATENT_FRAMES


@pytest.mark.parametrize("kind", evaluate_beats.KINDS)
def test_clicks_of_every_kind_are_heard_where_they_were_made(kind):
    """An alarm for the sounds as much as for the ear: overlapping and uneven clicks may be missed, equal ones in silence may not."""
    rng, right = random.Random(0), []
    for seed in range(8):
        beats = evaluate_beats.beat_frames(rng, 1 + seed % 4)
        masks = [(np.arange(world.LATENT_FRAMES) >= beat).astype(float) for beat in beats]
        timing = evaluate_beats.timing_of([f"thing {place}" for place in range(len(beats))], evaluate_beats.clicks(beats, kind, seed))
        found, was_heard = evaluate_beats.heard(timing, masks)
        assert len(found.phrases) >= sum(was_heard)
        right += was_heard
    assert np.mean(right) >= {"clear": 1.0, "uneven": 0.9, "overlapping": 0.6}[kind]


def test_a_beat_that_is_not_heard_is_left_out_and_counted():
    beats = [3, 8]
    masks = [(np.arange(world.LATENT_FRAMES) >= beat).astype(float) for beat in beats]
    timing = evaluate_beats.timing_of(["red circle", "blue cross"], evaluate_beats.clicks(beats[:1], "clear", 0))
    found, was_heard = evaluate_beats.heard(timing, masks)
    assert [phrase.phrase for phrase in found.phrases] == ["red circle"]
    assert was_heard == [True, False]


def test_objects_drawn_on_their_beats_are_on_them_and_one_frame_later_are_not():
    (clip,) = evaluate_temporal.clips_of(2, 1, 3)
    beats = dict(zip((subject.color for subject in clip.subjects), (4, 9), strict=True))
    masks = {color: (np.arange(world.LATENT_FRAMES) >= beat).astype(float) for color, beat in beats.items()}

    def video(delay):
        late = [replace(s, visible=(np.arange(world.LATENT_FRAMES) >= beats[s.color] + delay).astype(float)) for s in clip.subjects]
        return world.draw([replace(clip, subjects=tuple(late))])

    (right,) = evaluate_beats.judge_beats(clip, masks, [True, False], video(0), video(0))
    (late,) = evaluate_beats.judge_beats(clip, masks, [True, True], video(1), video(0))
    assert right["on_beat"] == right["accuracy"] == 1 and right["heard"] == 0.5
    assert late["on_beat"] == 0 and late["accuracy"] == pytest.approx(12 / 13) and late["heard"] == 1


@with_weights
@pytest.mark.parametrize(
    "arguments, keys",
    [
        (["--mode", "bias", "--bias-end", "0.3", "--bias-depth", "1"], {"accuracy", "presence", "absence", "joint", "colour", "shape"}),
        (["--movement", "--mode", "both", "--bias-end", "0.3", "--iterations", "1"], {"accuracy", "moves", "share", "there", "shape"}),
        (["--audio", "--iterations", "1"], {"accuracy", "joint", "on_beat", "heard", "shape"}),
    ],
    ids=["bias", "movement", "audio"],
)
def test_the_command_line_prints_one_json_object(capsys, arguments, keys):
    evaluate.main(["temporal", "--captions", "1", "--seeds", "1", "--steps", "2", *arguments])
    result = json.loads(capsys.readouterr().out)
    for name in ("plain", "guided"):
        assert keys <= set(result[name]) and keys <= set(result[name]["interval"])
    assert result["plain"]["guided_steps"] == 0 and result["guided"]["guided_steps"] == 1
    assert "accuracy" in result["guided"]["minus_plain"]


@with_weights
def test_a_sweep_prints_its_table_and_counts_the_steps_that_were_guided(capsys, monkeypatch, caplog):
    monkeypatch.setitem(evaluate_temporal.SWEEPS, "k", (1, 2))
    with caplog.at_level("INFO", "wan_conductor.playground"), torch.inference_mode():
        evaluate.main(["temporal", "--sweep", "k", "--captions", "1", "--seeds", "1", "--steps", "3", "--iterations", "1"])
    result = json.loads(capsys.readouterr().out)
    assert result["sweep"] == "k"
    assert [result[name]["guided_steps"] for name in ("plain", "1", "2")] == [0, 1, 2]
    assert [line.split("|")[1].strip() for line in caplog.messages[-1].strip().splitlines()] == ["", "---", "plain", "1", "2"]


def test_bias_mode_has_none_of_the_swept_knobs():
    with pytest.raises(SystemExit):
        evaluate.main(["temporal", "--sweep", "k", "--mode", "bias"])
