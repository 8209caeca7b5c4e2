"""`bench events`: plain is really plain, only the positive rows are controlled, and the keys that scripts read."""

import json

import pytest
import torch
from wan_conductor.development.benchmarks import events
from wan_conductor.development.wan_block import SHAPES, Setting
from wan_conductor.guidance import events as schedules
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.patch import VideoGrid
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.playground import network

SMALL = ["--models", "tiny", "--frames", "3", "--height", "4", "--width", "4", "--repeats", "2", "--json"]


@pytest.fixture
def control_calls(monkeypatch):
    """How often the control ran."""
    calls, schedule_bias = [], schedules.schedule_bias
    monkeypatch.setattr(schedules, "schedule_bias", lambda *args, **kwargs: calls.append(1) or schedule_bias(*args, **kwargs))
    return calls


def test_plain_is_unpatched_and_control_changes_the_positive_row_alone(control_calls):
    schedule = EventSchedule(parse_timeline(events.TIMELINE))
    setting = Setting(("tiny",), VideoGrid(3, 4, 4), 2, 1, "cpu")
    kinds = events.kinds_of(SHAPES["tiny"], schedule, setting, schedule.new_record())
    plain = kinds["plain"]()
    assert not control_calls
    controlled = kinds["controlled"]()
    assert len(control_calls) == 1
    assert torch.equal(kinds["plain"](), plain) and len(control_calls) == 1  # nothing stays installed
    assert torch.equal(controlled[1], plain[1]) and not torch.equal(controlled[0], plain[0])


def test_half_of_the_blocks_in_a_fifth_of_the_steps_are_controlled_at_the_papers_settings():
    schedule = EventSchedule(parse_timeline(events.TIMELINE))
    assert events.controlled_share(schedule, 40, rows=2) == pytest.approx(0.1)
    assert events.controlled_share(schedule, 40, rows=1) == pytest.approx(0.05)  # the negative prompt's calls are as many, and plain


def test_the_command_prints_the_keys_of_the_issue(capsys):
    events.main([*SMALL, "--runs", "0"])
    result = json.loads(capsys.readouterr().out)
    block = result["blocks"]["tiny"]
    assert result["call_ratio"] == block["call_ratio"] and result["run_ratio"] == block["run_ratio"]
    # 15 of 30 blocks in 8 of 40 steps, and one of the two prompts
    assert block["run_ratio"] == pytest.approx(1 + (block["call_ratio"] - 1) * 0.05, abs=1e-5)
    assert 0 < block["share_of_tokens_controlled"] < 1 and "playground" not in result


@pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")
def test_a_plain_run_of_the_playground_is_uncontrolled(control_calls, monkeypatch):
    seen = {}

    def once_each(kinds, runs, on_gpu):
        for name, work in kinds.items():
            before = len(control_calls)
            work()
            seen[name] = len(control_calls) - before
        return {name: [1.0] for name in kinds}

    monkeypatch.setattr(events, "interleaved", once_each)
    events.of_playground(5, 1)
    assert seen == {"plain": 0, "controlled": 2}  # blocks 1 and 3 of 5 in the first of 5 steps
