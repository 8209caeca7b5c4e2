"""The bars under the pictures of the example workflows say what their timelines ask for."""

import json
from pathlib import Path

import pytest
from wan_conductor.development.workflow_pictures import asked_for

PROMPTS = Path(__file__).resolve().parents[2] / "playground" / "prompts"


def prompt(name):
    return json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))


def test_each_event_has_its_own_bar_in_its_span():
    bars = asked_for(prompt("event_schedule"), 49)
    assert list(bars) == ["moves right", "moves up"]
    assert bars["moves right"][:6] == [1] * 6 and bars["moves right"][7:] == [0] * 6
    assert bars["moves up"][:6] == [0] * 6 and bars["moves up"][7:] == [1] * 6
    # 1.5 s is frame 24; latent 6 covers the frames 21 to 24, three of them before it
    assert (bars["moves right"][6], bars["moves up"][6]) == (0.75, 0.25)


def test_a_relation_is_named_by_its_middle():
    assert asked_for(prompt("composition_guide"), 49) == {"left of": [1.0] * 13}


def test_prompts_take_over_from_one_another_through_a_half_of_each():
    first, second = asked_for(prompt("multi_prompt_blend"), 105).values()
    assert len(first) == 27 and first == sorted(first, reverse=True)
    assert [a + b for a, b in zip(first, second)] == pytest.approx([1] * 27)
    assert (first[0], first[13], first[26]) == pytest.approx((1, 0.5, 0))


def test_no_timeline_no_bars():
    assert asked_for(prompt("spectral_homeostasis"), 49) == {}
