"""Guided steps inside any sampler: edit x, take one Euler step, and hand the rest of the schedule to the user's sampler."""

import copy
import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.model_patcher
import comfy.patcher_extension
import torch
from tqdm.auto import trange

STEP_CACHES = ("easycache", "lazycache")


@dataclass(frozen=True)
class StepStart:
    """One guided step before its denoising: x "b c f h w" is z_t at sigmas[index]."""

    index: int
    x: torch.Tensor
    sigmas: torch.Tensor
    model: Any  # the host's KSamplerX0Inpaint
    extra_args: dict[str, Any]


Edit = Callable[[StepStart], torch.Tensor]


def with_guided_steps(sampler: Any, guider: Any, intervals: Callable[[torch.Tensor], Collection[int]], edit: Edit) -> Any:
    """A private copy of a host SAMPLER whose steps `intervals(sigmas)` start with `edit`; the given one may be shared and stays."""
    guided = copy.copy(sampler)
    guided.sampler_function = guided_steps(sampler.sampler_function, guider, intervals, edit)
    return guided


def guided_steps(sampler_function: Callable, guider: Any, intervals: Callable[[torch.Tensor], Collection[int]], edit: Edit) -> Callable:
    """`sampler_function` with Euler steps from the first step through the last guided one.

    Only Euler reads x afresh at every step: multistep samplers remember the unedited path, others estimate twice a step.
    Without a guided step the sampler runs untouched.
    """

    @functools.wraps(sampler_function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        extra_args = extra_args or {}
        guided = frozenset(intervals(sigmas))
        if not guided:
            return sampler_function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)
        total = len(sigmas) - 1
        euler_steps = max(guided) + 1
        if total - euler_steps == 1:
            euler_steps = total  # uni_pc and dpm_fast silently do nothing with a single interval
        with without_step_caches(guider, extra_args) as uncached_args:
            for i in trange(euler_steps, disable=disable, desc="guided steps"):
                if i in guided:
                    x = edit(StepStart(i, x, sigmas, model, uncached_args))
                x = k_diffusion.sample_euler(
                    model, x, sigmas[i : i + 2], extra_args=uncached_args, callback=shifted(callback, i), disable=True
                )
        if euler_steps == total:
            return x
        # a view: uni_pc writes its last sigma into it, and the host reads that back
        return sampler_function(
            model, x, sigmas[euler_steps:], extra_args=extra_args, callback=shifted(callback, euler_steps), disable=disable, **options
        )

    return sample


def shifted(callback: Callable | None, steps: int) -> Callable | None:
    """The sampler's callback as a part of the run sees it that starts after `steps` steps."""
    if callback is None:
        return None
    return lambda state: callback({**state, "i": state["i"] + steps})


@contextmanager
def without_step_caches(guider: Any, extra_args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Extra args without EasyCache and LazyCache, whose reused prediction would swallow an edit.

    The host reads PREDICT_NOISE wrappers from the guider and all later ones from what the sampler passes.
    """
    original = guider.model_options
    guider.model_options = uncached(original)
    try:
        yield {**extra_args, "model_options": uncached(extra_args.get("model_options", {}))}
    finally:
        guider.model_options = original


def uncached(model_options: dict[str, Any]) -> dict[str, Any]:
    options = comfy.model_patcher.create_model_options_clone(model_options)
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    for kind, by_key in wrappers.items():
        if kind != comfy.patcher_extension.WrappersMP.OUTER_SAMPLE:
            wrappers[kind] = {key: w for key, w in by_key.items() if key not in STEP_CACHES}
    return options
