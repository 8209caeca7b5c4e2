"""The report keeps what happened, as strict JSON that reads back, and its pictures show it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.optimise import optimise_latent
from wan_conductor.guidance.pictures import AFTER, BEFORE, MASK, filmstrip, timing_figure
from wan_conductor.guidance.report import GuidanceReport, GuidedStep, IterationRecord, LoopHistory, ObjectiveRecord, SkippedStep
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline

FRAMES = 13


def record(iteration, correlation, attention, moving=(True,), mask=None):
    mask = mask or [[0.0] * 6 + [1.0] * 7]
    traces = {"correlation": [[correlation]], "attention": [[attention]], "mask": mask}
    return IterationRecord(iteration, (ObjectiveRecord("Temporal Mask", [1.0], {"entropy": [2.0]}, [False], traces),), list(moving))


def guided_step(step=0, kept=2, forwards=3, backwards=2, depth=0.5, recomputes=True):
    flat, falling, rising = [0.5] * FRAMES, np.linspace(1, 0, FRAMES).tolist(), np.linspace(0, 1, FRAMES).tolist()
    iterations = (record(0, -0.8, falling), record(1, 0.1, flat), record(2, 0.9, rising, (False,)))
    loop = LoopHistory(iterations, [kept], [0.01], ["satisfied"], forwards, backwards)
    return GuidedStep(step, 0.9, "high noise", [["red circle"]], depth, recomputes, loop)


def report(*steps, **values):
    return GuidanceReport(fps=16.0, latent_frames=FRAMES, sampler="euler", preset="fast", steps=list(steps), **values)


def has_colour(picture, colour, tolerance=4):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - rgb).max(-1) <= tolerance).sum())


def test_json_reads_back_as_the_same_report():
    original = report(guided_step(), skipped=[SkippedStep(3, "gradient not finite")], denoise_forwards=40, notes=["x"], models=["a", "b"])
    again = GuidanceReport.from_json(original.to_json())
    assert again == original
    assert again.to_json() == original.to_json()


def test_enough_blocks_are_those_that_agree_in_every_guided_step():
    def enough(*of_steps):
        return report(*(replace(guided_step(), depth_agreement=of_step) for of_step in of_steps)).enough_blocks

    assert enough([0.5, 0.97, 0.99, 1.0]) == (2, 4)
    assert enough([0.5, 0.97, 0.99, 1.0], [0.96, 0.8, 0.96, 1.0]) == (3, 4)
    assert enough([0.2, 0.3, None]) == (3, 3)  # a number that was not finite agrees with nothing
    assert enough(None) is None and enough() is None
    assert enough([0.5, 1.0], [0.5, 0.7, 1.0]) is None  # experts of different depth


def test_numbers_that_are_not_finite_become_null_in_strict_json():
    step = guided_step()
    step.loop.iterations[0].objectives[0].loss[0] = float("nan")
    text = report(step).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["steps"][0]["loop"]["iterations"][0]["objectives"][0]["loss"] == [None]


def test_a_real_run_of_the_loop_survives_json():
    objective = TemporalMask(parse_timeline("1s - 2s x\nalways y"), lambda_entropy=0.1)
    result = optimise_latent(
        torch.randn(2, 4, FRAMES, 2, 2), lambda z: z.softmax(1)[:, :2], [objective], GuidanceBudget(iterations=3, step_size=0.1)
    )
    step = GuidedStep(0, 1.0, "m", [["x", "y"]], 1.0, False, result.history)
    again = GuidanceReport.from_json(report(step).to_json())
    assert again.steps == [step]
    traces = again.steps[0].loop.after(0).objectives[0].traces
    assert np.shape(traces["attention"]) == (2, 2, FRAMES)
    assert np.shape(traces["mask"]) == (2, FRAMES)
    assert again.samples == 2


def test_cost_counts_forwards_backwards_recompute_and_depth():
    # forward 1, backward 2, recompute 1 (research 4); a step without recompute and one at half depth with it
    costs = report(guided_step(depth=1.0, recomputes=False), guided_step(depth=0.5), denoise_forwards=40)
    assert costs.steps[0].forward_equivalents == 3 + 2 * 2
    assert costs.steps[1].forward_equivalents == 0.5 * (3 + 2 * 3)
    assert costs.cost_factor == pytest.approx(1 + 11.5 / 40)
    totals = json.loads(costs.to_json())["totals"]
    assert totals["guidance_forwards"] == 11.5
    assert report().cost_factor is None


def test_after_is_the_evaluation_of_the_latent_that_was_kept():
    assert guided_step(kept=1).loop.after(0).iteration == 1
    assert guided_step(kept=3).loop.after(0).iteration == 2  # the last update, which nothing measured
    assert guided_step().loop.updates == 2


def test_the_log_line_tells_updates_cost_and_correlation():
    line = report(guided_step(), guided_step(1), denoise_forwards=40, skipped=[SkippedStep(4, "x")]).summary()
    assert "2 guided steps, 4 updates, 9.0 extra forward-equivalents (1.23x plain)" in line
    assert "-0.80 -> 0.90" in line
    assert "1 skipped" in line
    assert "0.10" in report(guided_step(kept=1)).summary()


def test_the_log_line_of_an_unguided_run_gives_the_reason():
    assert "one latent frame" in report(skipped=[SkippedStep(None, "one latent frame")]).summary()


def test_the_timing_figure_shows_mask_attention_before_and_after():
    picture = timing_figure(report(guided_step()))
    assert picture.shape == (450, 700, 3)
    assert picture.dtype == np.uint8
    blended = "#{:02X}{:02X}{:02X}".format(*(round(255 + (int(MASK[i : i + 2], 16) - 255) * 0.45) for i in (1, 3, 5)))
    assert has_colour(picture, blended) > 20_000  # half of the panel
    assert has_colour(picture, AFTER) > has_colour(picture, BEFORE) > 200


def test_the_shade_and_the_lines_follow_their_numbers():
    picture = timing_figure(report(guided_step()))
    orange = np.argwhere(np.abs(picture[80:370].astype(int) - (0xD5, 0x5E, 0x00)).max(-1) <= 4)
    left, right = orange[orange[:, 1] < 300], orange[orange[:, 1] > 550]
    assert left[:, 0].mean() > right[:, 0].mean() + 100  # attention after rises to the right: rows count downwards


def test_each_video_of_a_batch_has_its_own_picture():
    objective = TemporalMask(parse_timeline("1s - 2s x"), lambda_entropy=0.1)
    result = optimise_latent(torch.randn(2, 3, FRAMES, 2, 2), lambda z: z.softmax(1)[:, :1], [objective], GuidanceBudget(iterations=1))
    guided = report(GuidedStep(0, 1.0, "m", [["x"]], 1.0, False, result.history))
    assert not np.array_equal(timing_figure(guided, 0), timing_figure(guided, 1))


def test_more_phrases_make_the_picture_taller_and_more_steps_do_not_make_it_wider():
    text = "\n".join(f"{i * 10}% - {i * 10 + 20}% phrase number {i}" for i in range(8))
    objective = TemporalMask(parse_timeline(text), lambda_entropy=0.1)
    result = optimise_latent(torch.randn(1, 9, FRAMES, 2, 2), lambda z: z.softmax(1)[:, :8], [objective], GuidanceBudget(iterations=1))
    steps = [GuidedStep(i, 1.0, "m", [[ref.phrase for ref in objective.phrases]], 1.0, False, result.history) for i in range(5)]
    height, width, _ = timing_figure(report(*steps)).shape
    assert width == 700
    assert height > 8 * 90


def test_a_run_without_guided_steps_is_a_picture_of_the_reason():
    picture = timing_figure(report(skipped=[SkippedStep(None, "one latent frame")]))
    assert picture.shape == (450, 700, 3)
    assert not np.array_equal(picture, timing_figure(report(skipped=[SkippedStep(None, "the timeline is empty")])))


def test_phrases_in_any_script_and_of_any_length_are_drawn():
    step = guided_step()
    for words in ("红色的圆形慢慢地出现在画面的右边然后消失", "x" * 80, "costs $5 and $^_$ more"):
        step.phrases[0][0] = words
        assert timing_figure(report(step)).shape == (450, 700, 3)


def test_the_filmstrip_shows_plain_above_guided_with_the_mask_under_each_frame():
    plain, guided = np.zeros((49, 16, 16, 3), dtype=np.uint8), np.full((49, 16, 16, 3), 255, dtype=np.uint8)
    guided[..., 1:] = 0
    mask = [0.0] * 6 + [1.0] * 7
    strip = filmstrip(plain, guided, mask, phrases=["red circle"])
    assert strip.dtype == np.uint8
    black, red = (np.argwhere((strip == colour).all(-1)) for colour in ((0, 0, 0), (255, 0, 0)))
    assert black[:, 0].mean() < red[:, 0].mean()
    bars = np.argwhere(np.abs(strip.astype(int) - (0x56, 0xB4, 0xE9)).max(-1) <= 2)
    middle = 96 + (1300 - 104) * 6 / 13
    assert bars[:, 1].min() >= middle - 12  # frames before the mask have an empty bar
    assert len(bars) > 2 * 7 * 16 * 60


def test_the_filmstrip_takes_a_mask_per_frame_or_per_latent_and_refuses_others():
    frames, latents = np.zeros((49, 8, 8, 3)), [0.0] * 6 + [1.0] * 7
    per_frame = [0.0] * 21 + [1.0] * 28  # latent j covers frames 4j-3 .. 4j
    assert np.array_equal(filmstrip(frames, frames, latents), filmstrip(frames, frames, per_frame))
    with pytest.raises(ValueError, match="mask has 20 values: needs one for each of the 49 frames"):
        filmstrip(frames, frames, [1.0] * 20)
