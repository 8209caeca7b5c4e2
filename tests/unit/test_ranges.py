"""Knobs out of their range are refused by owner, field and value."""

import math

import pytest
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.composition import Composition
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.homeostasis import SpectralHomeostasis
from wan_conductor.guidance.kv_sharing import KVSharing
from wan_conductor.guidance.ranges import check_fps, check_percents, check_range
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline

METHODS = {
    "Guidance budget": (GuidanceBudget, ""),
    "Temporal Mask": (lambda **knobs: TemporalMask(parse_timeline("cat"), **knobs), ""),
    "Composition Guide": (lambda **knobs: Composition(parse_timeline("cat | left of | dog"), **knobs), ""),
    "Event Schedule": (lambda **knobs: EventSchedule(parse_timeline("cat:\n  jumps"), **knobs), ""),
    "Spectral Homeostasis": (SpectralHomeostasis, ""),
    "Multi Prompt Blend": (KVSharing, "kv_"),
}


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_the_ends_of_a_range_lie_in_it_and_nothing_beyond(value):
    check_range("Node", "knob", 0, 0, 1)
    check_range("Node", "knob", 1, 0, 1)
    with pytest.raises(ValueError, match=f"^Node: `knob` = {value}: must lie in 0..1$"):
        check_range("Node", "knob", value, 0, 1)


@pytest.mark.parametrize("start, end", [(None, None), (0.5, None), (None, 0.5), (0.5, 0.5), (0, 1)])
def test_a_part_of_the_schedule_may_leave_either_end_to_the_budget(start, end):
    check_percents("Node", start, end)


def test_a_rate_of_zero_is_the_models_and_none_is_endless():
    check_fps("Node", 0)
    with pytest.raises(ValueError, match="^Node: `fps` = inf: must lie in 0..1000$"):
        check_fps("Node", math.inf)


@pytest.mark.parametrize("owner", METHODS)
@pytest.mark.parametrize(
    "span, words",
    [
        ((-0.1, 0.5), "start_percent` = -0.1: must lie in 0..1"),
        ((0.5, 1.5), "end_percent` = 1.5: must lie in 0..1"),
        ((0.5, 0.4), "end_percent` = 0.4: must not lie before `{}start_percent` = 0.5"),
    ],
)
def test_every_method_refuses_a_part_of_the_schedule_that_is_none(owner, span, words):
    method, prefix = METHODS[owner]
    with pytest.raises(ValueError, match=f"^{owner}: `{prefix}{words.format(prefix)}$"):
        method(start_percent=span[0], end_percent=span[1])


@pytest.mark.parametrize("owner", ["Temporal Mask", "Composition Guide", "Event Schedule"])
def test_every_timeline_refuses_a_negative_rate(owner):
    with pytest.raises(ValueError, match=f"^{owner}: `fps` = -1: must lie in 0..1000$"):
        METHODS[owner][0](fps=-1)
