"""What a blended run leaves for its report, and its picture."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from wan_conductor.guidance.blend import MultiPromptBlend
from wan_conductor.guidance.blend_pictures import blend_figure, size_of
from wan_conductor.guidance.blend_record import BlendRecord, SeamWatch, blend_record, unlikeness
from wan_conductor.guidance.pictures import AFTER, BEFORE, MASK

BLEND = MultiPromptBlend(4, 2, (1, 1))  # windows 0-3, 2-5, 4-7


def painted(picture, colour):
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return int((abs(picture.astype(int) - wanted).max(-1) <= 2).sum())


def record(blend=BLEND, unlike=((0.8, 0.4), (), (0.2, 0.1))):
    return blend_record(blend, 9, [1, 2], 1_000_000, ["a cat"] * len(blend.repeats), [list(step) for step in unlike])


def test_unlikeness_is_0_for_the_same_and_root_2_for_unrelated_predictions():
    one, other = torch.randn(2, 1, 16, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    assert float(unlikeness(one, one)) == 0 and float(unlikeness(torch.zeros(2), torch.zeros(2))) == 0
    assert float(unlikeness(one, other)) == pytest.approx(math.sqrt(2), abs=0.05)
    assert float(unlikeness(one, -one)) == pytest.approx(2)
    assert float(unlikeness(3 * one, 3 * other)) == pytest.approx(float(unlikeness(other, one)))


def test_each_seam_is_measured_in_its_own_overlap_and_the_last_run_of_a_sigma_counts():
    first, second, third = torch.randn(3, 1, 2, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    watch = SeamWatch(BLEND)
    for predicted in ([third, second, first], [first, second, third]):
        for window, one in enumerate(predicted):
            watch.see(0.9, window, one)
        watch.step_over()
    expected = [float(unlikeness(first[:, :, 2:], second[:, :, :2])), float(unlikeness(second[:, :, 2:], third[:, :, :2]))]
    assert watch.of_steps([1.0, 0.9]) == [[], pytest.approx(expected)]


def test_a_run_of_some_windows_or_of_windows_that_do_not_meet_measures_no_step():
    watch = SeamWatch(BLEND)
    for window in (0, 2):
        watch.see(0.9, window, torch.ones(1, 2, 4, 3, 3))
    watch.step_over()
    watch.see(0.8, 1, torch.ones(1, 2, 4, 3, 3))
    watch.step_over()
    watch.see(0.8, 2, torch.ones(1, 2, 4, 3, 3))  # of another call: not the neighbour of that 1
    assert watch.of_steps([0.9, 0.8]) == [[], []]
    apart = SeamWatch(replace(BLEND, overlap=0))
    for window in range(3):
        apart.see(0.9, window, torch.ones(1, 2, 4, 3, 3))
    assert apart.of_steps([0.9]) == [[]]


def test_the_record_tells_windows_and_shares_and_survives_json():
    made = record()
    assert made.frames == [[0, 4], [2, 6], [4, 8]] and made.shown == [[0, 0.0], [0, 0.5], [1, 0.0]]
    assert np.array(made.shares).shape == (2, 8) and np.allclose(np.sum(made.shares, 0), 1)
    assert BlendRecord.from_dict(json.loads(json.dumps(asdict(made)))) == made


def test_the_picture_has_a_track_for_each_prompt_and_a_line_for_each_seam_the_most_unlike_bold():
    picture = blend_figure(record(), 16.0)
    assert picture.shape[1:] == (700, 3) and painted(picture, AFTER) > 200
    five = record(replace(BLEND, repeats=(1,) * 5), unlike=[[0.5] * 8])
    assert blend_figure(five, 16.0).shape[0] > picture.shape[0] + 100
    only = blend_figure(record(replace(BLEND, transitions=0), unlike=[[0.5], [0.4]]), 16.0)
    assert painted(picture, BEFORE) > painted(only, BEFORE) + 150 and painted(only, AFTER) > 200


@pytest.mark.parametrize("unlike", [[], [[], []], [[None, None], [0.1, None]]])
def test_without_anything_measured_it_is_drawn_all_the_same(unlike):
    assert painted(blend_figure(record(unlike=unlike), 16.0), MASK) > 1000  # the bars of the windows


def test_a_word_swap_has_no_seams_and_says_so():
    swap = record(replace(BLEND, mode="word swap"), unlike=[])
    assert swap.windows == 2 and swap.shares == [] and swap.frames == [[0, 4], [0, 4]]
    assert blend_figure(swap, 16.0, title="high noise").shape == (300, 700, 3)


def test_memory_is_told_in_the_unit_that_people_read():
    assert [size_of(count) for count in (1_234_000, 238_000_000, 9_400_000_000)] == ["1.23 MB", "238 MB", "9.4 GB"]
