"""One guided run: its state is made when sampling starts, dropped when it ends, and never lives on a model, a module or a global."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import comfy.utils
import torch

from ..guidance.budget import DEFAULT_PRESET, PRESETS, GuidanceBudget, preset_name
from ..guidance.latent_time import frames_per_second
from ..guidance.objective import Objective
from ..guidance.patch import Patch
from ..guidance.report import GuidanceReport, SkippedStep
from .schedule import guided_intervals

logger = logging.getLogger("wan_conductor")

Guidance = TypeVar("Guidance", Objective, Patch)

LINK_KEY = "wan_conductor_link"
COUNT_KEY = "wan_conductor_count"


@dataclass
class SamplerLink:
    """What Guided KSampler lays into the transformer_options of a private clone for its run to find."""

    report: GuidanceReport
    progress: Callable[[float], None]  # steps of this run that are done, with the fraction of a guided one
    budget: GuidanceBudget | None = None  # None: what a Guidance Budget node set, else the default preset
    model: str = "model"
    first_step: int = 0  # of this run in the whole schedule
    leftover: bool = False  # the noise is what an earlier stage left in each video


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


def with_something_to_do(guidance: Sequence[Guidance], report: GuidanceReport, fps: float) -> list[Guidance]:
    """Those that do not say, at this length of video, why they are skipped; the reasons of the others go to log and report."""
    left = []
    for one in guidance:
        reason = one.skip_reason(report.latent_frames, fps)
        if reason is None:
            left.append(one)
            continue
        logger.info("Wan Conductor: skipped: %s", reason)
        report.skipped.append(SkippedStep(None, reason))
    return left


def start_run(guidance: tuple[Any, ...], link: SamplerLink, sigmas: torch.Tensor, guider: Any) -> GuidanceRun | None:
    """None if no step of this run will be guided."""
    report = link.report
    fps = frames_per_second(guider.model_patcher.model.latent_format.latent_channels)
    objectives = with_something_to_do([g for g in guidance if isinstance(g, Objective)], report, fps)
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
