"""One guided run: its state is made when sampling starts, dropped when it ends, and never lives on a model, a module or a global."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..guidance.budget import DEFAULT_PRESET, PRESETS, GuidanceBudget, preset_name
from ..guidance.latent_time import frames_per_second
from ..guidance.objective import Objective
from ..guidance.report import GuidanceReport, SkippedStep
from .guided_steps import with_guided_steps
from .latent_edit import LatentEdit
from .positive import positive_entries
from .schedule import guided_intervals

logger = logging.getLogger("wan_conductor")

LINK_KEY = "wan_conductor_link"
COUNT_KEY = "wan_conductor_count"
FRAMES_DIM = 2  # of a latent "b c f h w"


@dataclass
class SamplerLink:
    """What Guided KSampler lays into the transformer_options of a private clone for its run to find."""

    report: GuidanceReport
    progress: Callable[[float], None]  # steps of this run that are done, with the fraction of a guided one
    budget: GuidanceBudget | None = None  # None: what a Guidance Budget node set, else the default preset
    model: str = "model"
    first_step: int = 0  # of this run in the whole schedule


@dataclass
class GuidanceRun:
    """State of one run of one sampler with objectives."""

    objectives: tuple[Objective, ...]
    budget: GuidanceBudget
    link: SamplerLink
    fps: float  # the model's

    def active(self, sigmas: torch.Tensor, model_sampling: Any) -> dict[int, tuple[Objective, ...]]:
        """The objectives of every guided interval of `sigmas`; each keeps its own span, else the budget's."""
        plan: dict[int, tuple[Objective, ...]] = {}
        if self.budget.iterations == 0:
            return plan
        for objective in self.objectives:
            start = self.budget.start_percent if objective.start_percent is None else objective.start_percent
            end = self.budget.end_percent if objective.end_percent is None else objective.end_percent
            for index in guided_intervals(sigmas, model_sampling, start, end):
                plan[index] = (*plan.get(index, ()), objective)
        return plan


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
    """OUTER_SAMPLE wrapper: give the run a private sampler whose first steps are guided.

    Here, not in SAMPLER_SAMPLE, because here the sampler is an argument and nothing shared needs changing.
    """
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    from_node: SamplerLink | None = options.get(LINK_KEY)
    link = from_node or stock_link(noise, sampler, sigmas)
    run = start_run(guidance, link, sigmas, guider)
    if run is None:
        if from_node is None and not link.report.skipped:
            logger.info("Wan Conductor: %s", link.report.summary())
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    refuse_what_objectives_cannot(run.objectives, guider, sampler)
    edit = LatentEdit(run, guider, positive_entries(guider))
    own = with_guided_steps(sampler, guider, edit.intervals, edit)
    if from_node is not None:
        return executor(noise, latent_image, own, sigmas, *args, **kwargs)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, COUNT_KEY, counting(link.report), options)
    try:
        return executor(noise, latent_image, own, sigmas, *args, **kwargs)
    finally:
        logger.info("Wan Conductor: %s", link.report.summary())


def start_run(guidance: tuple[Any, ...], link: SamplerLink, sigmas: torch.Tensor, guider: Any) -> GuidanceRun | None:
    """None if no step of this run will be guided."""
    report = link.report
    fps = frames_per_second(guider.model_patcher.model.latent_format.latent_channels)
    objectives = []
    for objective in guidance:
        if not isinstance(objective, Objective):
            continue
        reason = objective.skip_reason(report.latent_frames, fps)
        if reason is None:
            objectives.append(objective)
            continue
        logger.info("Wan Conductor: skipped: %s", reason)
        report.skipped.append(SkippedStep(None, reason))
    budget = link.budget or next((g for g in guidance if isinstance(g, GuidanceBudget)), PRESETS[DEFAULT_PRESET])
    run = GuidanceRun(tuple(objectives), budget, link, fps)
    if not run.active(sigmas, guider.model_patcher.get_model_object("model_sampling")):
        return None
    report.fps = next((own for objective in objectives if (own := getattr(objective, "fps", 0.0))), fps)  # the seconds a reader counts in
    report.preset, report.budget = preset_name(budget), dataclasses.asdict(budget)
    report.models.append(link.model)
    return run


def stock_link(noise: torch.Tensor, sampler: Any, sigmas: torch.Tensor) -> SamplerLink:
    """The same for a stock sampler: its report ends in one log line, its progress in the bar of the node that samples."""
    steps = len(sigmas) - 1
    bar = comfy.utils.ProgressBar(steps)
    report = GuidanceReport(
        fps=frames_per_second(noise.shape[1]),
        latent_frames=noise.shape[2] if noise.ndim == 5 else 1,
        sampler=getattr(getattr(sampler, "sampler_function", sampler), "__name__", type(sampler).__name__).removeprefix("sample_"),
        total_steps=steps,
    )
    return SamplerLink(report, progress=lambda done: bar.update_absolute(done, steps))


def counting(report: GuidanceReport) -> Callable:
    """APPLY_MODEL wrapper that counts plain forwards, one for each cond of a batched call."""

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        report.denoise_forwards += len(transformer_options["cond_or_uncond"])
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    return apply_model


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


def has_area(entry: dict[str, Any]) -> bool:
    return "area" in entry or ("mask" in entry and entry.get("set_area_to_bounds", False))


WRAPPERS: dict[str, Callable] = {WrappersMP.OUTER_SAMPLE: outer_sample}
