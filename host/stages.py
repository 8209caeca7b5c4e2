"""The host's sampling over one model, or over the two experts of Wan 2.2, with one report and one progress bar."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP

from ..guidance.budget import GuidanceBudget
from ..guidance.latent_time import frames_per_second
from ..guidance.report import GuidanceReport, SkippedStep
from .attach import attached
from .blend_prompts import check_blended
from .run import COUNT_KEY, LINK_KEY, SamplerLink, counting

logger = logging.getLogger("wan_conductor")


@dataclass(frozen=True)
class Settings:
    """What all stages share; named as on the host's KSamplerAdvanced."""

    seed: int
    steps: int
    sampler_name: str
    scheduler: str
    positive: Any
    negative: Any
    budget: GuidanceBudget | None


@dataclass(frozen=True)
class Stage:
    """One run of the host's sampler: steps [start_step, last_step) of the schedule with one model."""

    model: Any
    name: str
    cfg: float
    start_step: int
    last_step: int
    add_noise: bool
    force_full_denoise: bool


def switch_step(sigmas: torch.Tensor, boundary: float) -> int:
    """The first step that the low-noise expert takes: where sigma has fallen below the boundary, as in Wan's own code."""
    return int((sigmas >= boundary).sum())


def schedule(model: Any, settings: Settings) -> torch.Tensor:
    """The sigmas that the host's KSampler makes for these settings."""
    return comfy.samplers.KSampler(
        model, settings.steps, model.load_device, settings.sampler_name, settings.scheduler, 1.0, model.model_options
    ).sigmas


def two_experts(high: Stage, low_noise_model: Any, low_noise_cfg: float, switch: int) -> list[Stage]:
    """`high` cut at step `switch`, after which the low-noise expert goes on; a stage without steps is left out."""
    stages = []
    if high.start_step < min(switch, high.last_step):
        stages.append(replace(high, name="high noise", last_step=min(switch, high.last_step)))
    if max(high.start_step, switch) < high.last_step:
        low = replace(high, model=low_noise_model, name="low noise", cfg=low_noise_cfg, start_step=max(high.start_step, switch))
        stages.append(replace(low, add_noise=high.add_noise and not stages))
    cut = [replace(stage, force_full_denoise=False) for stage in stages[:-1]]
    return [*cut, *stages[-1:]] or [high]


def sample_stages(stages: list[Stage], latent: dict[str, Any], settings: Settings) -> tuple[dict[str, Any], GuidanceReport]:
    """The LATENT after all stages, as KSamplerAdvanced would return it, and what guidance did."""
    for stage in stages:
        check_blended(attached(stage.model.model_options), settings.positive, "model_low_noise" if stage.name == "low noise" else "model")
    first = stages[0].model
    latent = with_channels_of(first, latent)
    samples = latent["samples"]
    report = GuidanceReport(
        fps=frames_per_second(first.model.latent_format.latent_channels),
        latent_frames=samples.shape[2] if samples.ndim == 5 else 1,
        sampler=settings.sampler_name,
        total_steps=settings.steps,
        maps={},
    )
    guided = any(attached(stage.model.model_options) for stage in stages)
    if not guided:
        report.skipped.append(SkippedStep(None, "the model carries no guidance"))
    started = time.perf_counter()
    steps = [max(min(stage.last_step, settings.steps) - stage.start_step, 0) for stage in stages]
    total = max(sum(steps), 1)
    bar = comfy.utils.ProgressBar(total)
    for index, stage in enumerate(stages):
        done = sum(steps[:index])
        preview = latent_preview.prepare_callback(stage.model, total)

        def callback(step, x0, x, _, done=done, preview=preview):
            preview(done + step, x0, x, total)

        if guided:
            link = SamplerLink(
                report=report,
                progress=lambda step, done=done: bar.update_absolute(done + step, total),
                budget=settings.budget,
                model=stage.name,
                first_step=stage.start_step,
                leftover=index > 0,
            )
            stage = replace(stage, model=linked(stage.model, link))
        latent = sample_stage(stage, latent, settings, callback, origin=samples if index and "noise_mask" in latent else None)
    report.seconds = time.perf_counter() - started
    if guided:
        logger.info("Wan Conductor: %s", report.summary())
    return latent, report


def linked(model: Any, link: SamplerLink) -> Any:
    """A private clone whose run finds the link and counts its forwards."""
    model = model.clone()
    model.model_options["transformer_options"][LINK_KEY] = link
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COUNT_KEY, counting(link.report))
    return model


def sample_stage(
    stage: Stage, latent: dict[str, Any], settings: Settings, callback: Callable, origin: torch.Tensor | None = None
) -> dict[str, Any]:
    """The host's common_ksampler with our callback. `origin`: what a noise mask keeps, where `latent` still holds noise."""
    samples = latent["samples"]
    if stage.add_noise:
        noise = comfy.sample.prepare_noise(samples, settings.seed, latent.get("batch_index"))
    elif origin is not None:
        noise, samples = noise_left(stage, samples, origin, settings), origin
    else:
        noise = torch.zeros(samples.size(), dtype=samples.dtype, layout=samples.layout, device="cpu")
    sampled = comfy.sample.sample(
        stage.model, noise, settings.steps, stage.cfg, settings.sampler_name, settings.scheduler, settings.positive, settings.negative,
        samples, denoise=1.0, disable_noise=not stage.add_noise, start_step=stage.start_step, last_step=stage.last_step,
        force_full_denoise=stage.force_full_denoise, noise_mask=latent.get("noise_mask"), callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=settings.seed,
    )
    return {**latent, "samples": sampled}


def noise_left(stage: Stage, samples: torch.Tensor, origin: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The noise that takes the host, starting from `origin`, to where `samples` stand at the first sigma of `stage`."""
    model_sampling = stage.model.get_model_object("model_sampling")
    sigma = schedule(stage.model, settings)[stage.start_step]
    nothing = torch.zeros_like(samples)
    x, x_without_noise = (model_sampling.noise_scaling(sigma, nothing, latent_in(stage.model, one)) for one in (samples, origin))
    return (x - x_without_noise) / model_sampling.noise_scaling(sigma, torch.ones_like(samples), nothing)


def latent_in(model: Any, latent: torch.Tensor) -> torch.Tensor:
    """As the host takes it in: an empty latent stays zero."""
    return model.model.process_latent_in(latent) if latent.any() else latent


def with_channels_of(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The latent in the model's channel count and size, if it is empty; the host keeps the ratios of an empty latent beside it."""
    ratios = {key: latent[key] for key in ("downscale_ratio_spacial", "downscale_ratio_temporal") if key in latent}
    rest = {key: value for key, value in latent.items() if key not in ratios}
    return {**rest, "samples": comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)}
