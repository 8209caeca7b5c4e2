"""Phrase attention captured in a gradient pass, against dense and plain-autograd references."""

import tiny_wan
import torch
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.host.capture import attention_capture

GROUPS = ((1, 2), (4,))


def capture_and_gradient(model, budget, groups=GROUPS, positive=None, noise=None):
    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget) as capture:
            z = x.detach().clone().requires_grad_()
            maps = capture(guider.conds["positive"][0], z, sigma, groups)
            weights = torch.linspace(-1, 1, maps.numel()).view(maps.shape)
            return maps.detach(), torch.autograd.grad((maps * weights).sum(), z)[0]

    noise = tiny_wan.latent_like() if noise is None else noise
    return tiny_wan.inside_sampling(model, positive or tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), noise, act)


def test_smoke():
    maps, gradient = capture_and_gradient(tiny_wan.load(), GuidanceBudget())
    assert maps.shape == (1, 2, 3, 4, 4)
    assert gradient.shape == (1, 16, 3, 8, 8) and gradient.abs().max() > 0
