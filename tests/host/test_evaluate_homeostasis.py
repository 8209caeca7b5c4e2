"""`playground evaluate homeostasis`: its verdicts on drawn videos, and the keys that scripts read."""

import json
import math

import pytest
import torch
from wan_conductor.playground import evaluate, evaluate_homeostasis, metrics, world
from wan_conductor.playground.evaluate_homeostasis import acceleration, background_flicker

FRAMES = world.LATENT_FRAMES


def moving(columns):
    """Area "f h w" of a 3 x 3 object whose left edge is at `columns`."""
    area = torch.zeros(len(columns), world.CANVAS, world.CANVAS)
    for frame, column in enumerate(columns):
        if column is not None:
            area[frame, 4:7, column : column + 3] = 1
    return area


@pytest.mark.parametrize(
    "columns, expected",
    [
        ([1, 2, 3, 4, 5], 0.0),
        ([1, 1, 1, 1], 0.0),
        ([1, 2, 1, 2, 1], 2.0),
        ([1, 2, 4, 7], 1.0),
        ([1, 2, None, 9, 10, 11], 0.0),  # a gap is no jump
    ],
)
def test_acceleration_of_known_tracks(columns, expected):
    assert acceleration(moving(columns)) == pytest.approx(expected, abs=1e-5)


def test_acceleration_is_unknown_where_the_object_is_hardly_seen():
    assert math.isnan(acceleration(moving([1, None, 2, 3, None])))


def test_flicker_counts_the_background_alone():
    video = torch.tensor(world.BACKGROUND).view(1, 3, 1, 1).repeat(FRAMES, 1, world.CANVAS, world.CANVAS)
    red = torch.tensor(world.COLORS["red"]).view(3, 1, 1)
    for frame in range(FRAMES):
        video[frame, :, 4:7, frame : frame + 3] = red
    assert background_flicker(video, metrics.color_areas(video)) == pytest.approx(0, abs=1e-6)
    video[::2, :, 12:] += 0.04  # a quarter of the rows goes up and down by 0.02 of the value range
    areas = metrics.color_areas(video)
    free = [~(torch.nn.functional.max_pool2d(a[None], 3, 1, 1)[0] >= 0.05) for a in torch.stack(list(areas.values())).amax(0)]
    both = [a & b for a, b in zip(free, free[1:])]
    expected = 0.02 * sum(float(of[12:].sum()) for of in both) / sum(float(of.sum()) for of in both)
    assert background_flicker(video, areas) == pytest.approx(expected, rel=1e-3) and expected > 0.004


def test_the_command_prints_the_keys_of_the_issue_and_pairs_each_video_with_its_plain_one(monkeypatch, capsys):
    monkeypatch.setattr(evaluate_homeostasis, "TAUS", (0.0, 0.2))
    evaluate.main(["homeostasis", "--json", "--captions", "1", "--steps", "2", "--depths"])
    result = json.loads(capsys.readouterr().out)
    assert {"tension_active", "videos_improved", "videos_improved_across_runs", "by_tau", "per_head", "random_weights"} <= set(result)
    assert set(result["tension_active"]) == {"before", "after"} and set(result["by_tau"]) == {"0", "0.2"}
    plain, guided = (result["by_tau"][tau] for tau in ("0", "0.2"))
    assert plain["calls"] == guided["calls"] == 2 * 2 * 2 * result["layers"]  # videos, steps, CFG rows
    assert plain["world"]["change"]["value"] == 0 < guided["world"]["change"]["value"]
    assert guided["wrong_sign"] == guided["calls_with_more_tension"] == 0 < guided["active_share"]
    assert guided["reduction_active"]["value"] > 0 and guided["minus_plain"]["present"]["count"] == 2
    assert guided["world"]["motion"]["count"] == 1  # of the moving caption; the still one has none
    per_head = result["per_head"]
    assert per_head["head_spread_active"]["after"] < per_head["head_spread_active"]["before"] and per_head["wrong_sign"] == 0
    assert result["tension_active"]["after"] < result["tension_active"]["before"] and result["videos_improved"] == 1
