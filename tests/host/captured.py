"""One capture at the first model evaluation of a run, as a guided step makes it."""

import tiny_wan
import torch
from dense_reference import weighted_sum
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.host.capture import attention_capture

GROUPS = ((1, 2), (4,))
GRID = (3, 4, 4)


def budget(memory_mode="balanced", depth=1.0):
    return GuidanceBudget(memory_mode=memory_mode, depth=depth)


BUDGET = budget()


def capture_and_gradient(model, positive=None, noise=None, budget=BUDGET, groups=GROUPS, negative=None, cfg=5.0, entry=0):
    """What a guided step does: maps of the first evaluation and the gradient of a loss on them."""

    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget) as capture:
            z = x.detach().clone().requires_grad_()
            maps = capture(guider.conds["positive"][entry], z, sigma, groups)
            return maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]

    noise = tiny_wan.latent_like() if noise is None else noise
    negative = negative or tiny_wan.conditioning(seed=2)
    return tiny_wan.inside_sampling(model, positive or tiny_wan.conditioning(), negative, noise, act, cfg=cfg)
