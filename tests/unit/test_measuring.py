"""How benchmarks measure: in turns, neighbours against neighbours, and memory that is really held."""

import time
from functools import partial

import pytest
import torch
from wan_conductor.development import measuring


def test_kinds_take_turns_and_the_first_round_does_not_count(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(time, "process_time", lambda: now[0])

    def kind(name, slow_at_first, usual):
        def work():
            now[0] += usual if name in order else slow_at_first
            order.append(name)

        return work

    seconds = measuring.interleaved({"plain": kind("plain", 100.0, 1.0), "other": kind("other", 50.0, 2.0)}, 3, on_gpu=False)
    assert seconds == {"plain": [1.0] * 3, "other": [2.0] * 3}
    there, back = ["plain", "other"], ["other", "plain"]
    assert order == back + there + back + there


def test_a_ratio_is_the_median_of_neighbours_and_not_of_all():
    # something else took the machine in the third round; the ratio of the medians would be 1
    told = measuring.ratios([2.0, 4.0, 40.0, 4.0], [3.0, 6.0, 60.0, 2.0])
    assert told == {"median": 1.5, "spread": [1.25, 1.5]}
    assert measuring.ratios([2.0], [3.0]) == {"median": 1.5, "spread": [1.5, 1.5]}


def held(work):
    with measuring.HeldTensors() as tensors:
        work()
    return tensors


@pytest.mark.parametrize("inference", [False, True])
def test_the_most_memory_counts_what_is_held_at_once_and_no_view_twice(inference):
    given = torch.zeros(1000)  # 4000 bytes, there before

    def work():
        one = given + 1
        two = one.view(10, 100).transpose(0, 1) + 1  # views of `one` are no memory
        del one
        given[10:].add_(1)
        three = given * 2
        del two
        return three * 2

    with torch.inference_mode(inference):
        tensors = held(work)
    assert (tensors.most, tensors.now) == (8000, 0)


def test_what_autograd_keeps_for_the_backward_pass_counts():
    x = torch.ones(1000, requires_grad=True)

    def gradient(times):
        y = x
        for _ in range(times):
            y = y.exp()  # keeps its result
        return torch.autograd.grad(y.sum(), x)

    three, five = (measuring.peak_bytes(partial(gradient, times), on_gpu=False) for times in (3, 5))
    assert five - three == 8000
