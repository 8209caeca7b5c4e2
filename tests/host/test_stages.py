"""Runs over both experts of Wan 2.2, and what a report says of runs without guidance and of its cost."""

import pytest
import tiny_wan
import torch
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.host.attach import attach
from wan_conductor.nodes.guided_ksampler import GuidedKSampler


@pytest.fixture(scope="module")
def experts():
    return tiny_wan.load(layers=1), tiny_wan.load(layers=1, seed=5)


def sample(model, latent, model_low_noise=None, positive=None):
    return GuidedKSampler.execute(
        model, "enable", 7, 4, 3.0, "euler", "simple", positive or prompt(), prompt("bad", seed=2), latent, 0, 10000, "disable",
        {"budget": "auto"}, {"switch_at": "t2v"}, model_low_noise=model_low_noise,
    ).args


@pytest.mark.parametrize("origin", [tiny_wan.latent_like(5, 4, 4), torch.zeros(1, 16, 5, 4, 4)], ids=["video", "empty"])
def test_a_noise_mask_keeps_what_it_protects_through_both_experts(experts, origin):
    """The second expert must not take the first one's leftover noise for the video that is to be kept."""
    mask = torch.ones(1, 1, 5, 4, 4)
    mask[:, :, :2] = 0
    out = sample(experts[0], {"samples": origin, "noise_mask": mask}, experts[1])[0]["samples"]
    assert torch.allclose(out[:, :, :2], sample(experts[0], {"samples": origin, "noise_mask": mask})[0]["samples"][:, :, :2], atol=1e-4)


def test_a_mask_that_protects_nothing_changes_nothing_through_both_experts(experts):
    origin = tiny_wan.latent_like(5, 4, 4)
    plain = sample(experts[0], {"samples": origin}, experts[1])[0]["samples"]
    masked = sample(experts[0], {"samples": origin, "noise_mask": torch.ones(1, 1, 5, 4, 4)}, experts[1])[0]["samples"]
    assert (masked - plain).norm() < 1e-4 * plain.norm()


def test_a_model_without_guidance_is_named_as_the_reason_why_no_step_was_guided(experts):
    report = sample(experts[0], {"samples": torch.zeros(1, 16, 5, 4, 4)})[1]
    assert "carries no guidance" in report.summary()


def test_the_report_counts_a_pass_for_every_prompt_of_a_combine(experts):
    """The cost of guidance is told beside that of plain sampling, which counts every prompt too."""
    guided = attach(attach(experts[0], temporal_mask(tau_corr=1.0)), GuidanceBudget(end_percent=0.1, iterations=2))

    def cost(positive):
        (step,) = sample(guided, {"samples": torch.zeros(1, 16, 5, 4, 4)}, positive=positive)[1].steps
        return step.loop.forwards, step.loop.backwards

    assert cost(prompt()) == (3, 2)
    assert cost([*prompt(), *prompt(seed=3)]) == (6, 4)
