"""Where guidance enters the host's sampling: one wrapper that gives each run a private sampler, and lets patches into its model calls."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..guidance.latent_time import frames_per_second
from ..guidance.objective import Objective
from .attention import attention_wrapper
from .blend_windows import FRAMES_DIM, start_blend
from .guided_steps import with_guided_steps
from .latent_edit import LatentEdit
from .patches import all_handlers, running_patches
from .positive import has_area, positive_entries
from .run import COUNT_KEY, LINK_KEY, SamplerLink, counting, start_run, stock_link

logger = logging.getLogger("wan_conductor")

PATCHES_KEY = "wan_conductor_patches"


def outer_sample(
    guidance: tuple[Any, ...],
    executor: Any,
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """OUTER_SAMPLE wrapper: give the run a private sampler whose first steps are guided, and its model calls the patches.

    Here, not in SAMPLER_SAMPLE, because here the sampler is an argument and nothing shared needs changing; the guider's model_options
    are the run's own by now, so what is added to them ends with it.
    """
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    from_node: SamplerLink | None = options.get(LINK_KEY)
    link = from_node or stock_link(noise, sampler, sigmas)
    fps = frames_per_second(guider.model_patcher.model.latent_format.latent_channels)
    blend = start_blend(guidance, guider, noise, sigmas, link)
    measure = from_node is not None
    patches: list[Any] = [*running_patches(guidance, guider, sigmas, link.report, link.model, link.first_step, fps, measure)]
    if blend is not None:
        noise = noise if link.leftover else blend.same_noise(noise)
        patches.append(blend)  # innermost: other patches see the window's own keys and all its tokens
    if patches:
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, PATCHES_KEY, attention_wrapper(all_handlers(patches)), options)
    run = start_run(guidance, link, sigmas, guider)
    if run is not None:
        refuse_what_objectives_cannot(run.objectives, guider, sampler)
        edit = LatentEdit(run, guider, positive_entries(guider))
        sampler = with_guided_steps(sampler, guider, edit.intervals, edit)
        if from_node is None:
            add_wrapper_with_key(WrappersMP.APPLY_MODEL, COUNT_KEY, counting(link.report), options)
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        for patch in patches:
            patch.finish()
        if from_node is None and (run is not None or patches or not link.report.skipped):
            logger.info("Wan Conductor: %s", link.report.summary())


def refuse_what_objectives_cannot(objectives: tuple[Objective, ...], guider: Any, sampler: Any) -> None:
    """Clear errors before the model is loaded, for the set-ups that guided steps do not support."""
    names = ", ".join(dict.fromkeys(objective.name for objective in objectives))
    if not hasattr(sampler, "sampler_function"):
        raise ValueError(
            f"{names}: sampler = {type(sampler).__name__}: it keeps its steps to itself, so none can be guided; "
            "choose one of KSampler's samplers, or take the guidance off the model."
        )
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        raise ValueError(f"{names}: model = split into MultiGPU work units, which run without gradients; remove that node.")
    if getattr(guider.model_options.get("context_handler"), "dim", FRAMES_DIM) != FRAMES_DIM:
        raise ValueError(f"{names}: model = in context windows that do not run over frames: set their dim to {FRAMES_DIM}, or remove them.")
    entries = positive_entries(guider)
    if len(entries) > 1 and any(map(has_area, entries)):
        raise ValueError(
            f"{names}: input `positive` = {len(entries)} prompts, not all for the whole frame: their attention cannot be compared; give "
            "them masks in place of areas (Conditioning (Set Mask), set_cond_area default)."
        )


WRAPPERS: dict[str, Callable] = {WrappersMP.OUTER_SAMPLE: outer_sample}
