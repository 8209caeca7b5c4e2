"""Spans of the schedule, on the host's own model sampling and schedulers."""

import comfy.samplers
import pytest
import tiny_wan
import torch
from wan_conductor.host.schedule import guided_intervals, span_sigmas


@pytest.fixture(scope="module")
def model_sampling():
    return tiny_wan.load(layers=1).get_model_object("model_sampling")  # Wan: flow, shift 8


def sigmas_of(model_sampling, steps, scheduler="simple"):
    return comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps)


@pytest.mark.parametrize("scheduler", ["simple", "normal", "sgm_uniform"])
@pytest.mark.parametrize("steps, percent, count", [(50, 0.1, 5), (30, 0.1, 3), (20, 0.2, 4), (40, 0.05, 2), (60, 0.1, 6)])
def test_a_tenth_of_the_schedule_is_a_tenth_of_evenly_spaced_steps(model_sampling, scheduler, steps, percent, count):
    assert guided_intervals(sigmas_of(model_sampling, steps, scheduler), model_sampling, 0.0, percent) == tuple(range(count))


def test_an_interval_that_reaches_into_the_span_is_guided(model_sampling):
    sigmas = sigmas_of(model_sampling, 10, "simple")
    assert guided_intervals(sigmas, model_sampling, 0.25, 0.55) == (2, 3, 4, 5)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_few_step_lora_is_guided_at_least_once(model_sampling, steps):
    assert guided_intervals(sigmas_of(model_sampling, steps), model_sampling, 0.0, 0.02) == (0,)


def test_a_span_much_shorter_than_a_step_guides_the_interval_that_contains_its_start(model_sampling):
    assert guided_intervals(sigmas_of(model_sampling, 4), model_sampling, 0.6, 0.6005) == (2,)


def test_a_slice_counts_from_the_schedule_not_from_itself(model_sampling):
    sigmas = sigmas_of(model_sampling, 20)
    assert guided_intervals(sigmas[2:], model_sampling, 0.0, 0.2) == (0, 1)
    assert guided_intervals(sigmas[2:9], model_sampling, 0.3, 0.4) == (4, 5)


def test_a_slice_outside_the_span_stays_unguided(model_sampling):
    sigmas = sigmas_of(model_sampling, 20)
    low_noise = sigmas[sigmas < 0.875]
    assert guided_intervals(low_noise, model_sampling, 0.0, 0.2) == ()
    assert guided_intervals(sigmas[:3], model_sampling, 0.5, 0.7) == ()


def test_an_empty_span_guides_nothing(model_sampling):
    assert guided_intervals(sigmas_of(model_sampling, 4), model_sampling, 0.0, 0.0) == ()


def test_the_whole_span_guides_every_interval(model_sampling):
    assert guided_intervals(sigmas_of(model_sampling, 7), model_sampling, 0.0, 1.0) == tuple(range(7))


def test_shift_moves_the_sigmas_not_the_share_of_the_run(model_sampling):
    high, low = span_sigmas(model_sampling, 0.0, 0.1)
    shift = model_sampling.shift
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(shift * 0.9 / (1 + (shift - 1) * 0.9))


@pytest.mark.parametrize("span", [(-0.1, 0.5), (0.6, 0.5), (0.0, 1.1)])
def test_an_impossible_span_is_refused_with_its_values(model_sampling, span):
    with pytest.raises(ValueError, match=str(span[0])):
        guided_intervals(torch.tensor([1.0, 0.0]), model_sampling, *span)
