"""The edit that starts a guided step: capture attention, lower the objectives' losses, keep the books."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import torch

from ..guidance.budget import MemoryMode
from ..guidance.objective import Objective, PhraseAt, StepwiseObjective, shared_phrases
from ..guidance.optimise import OptimisedLatent, optimise_latent
from ..guidance.phrase_maps import Evaluations
from ..guidance.phrases import PhraseNotFound
from ..guidance.report import GuidedStep, IterationRecord, SkippedStep, finite
from .capture import attention_capture, blocks_in_use
from .gradient import next_memory_mode, within_memory
from .guided_steps import StepStart
from .positive import entries_at, positive_entries
from .run import GuidanceRun
from .tokens import rows_of_entries, rows_of_guidance

Edit = tuple[OptimisedLatent, list[float] | None]  # and the agreement of its maps by depth

logger = logging.getLogger("wan_conductor")


class LatentEdit:
    """The objectives of one run as an edit of z_t. Refuses at once what `rows_of_guidance` refuses."""

    def __init__(self, run: GuidanceRun, guider: Any, entries: Sequence[dict[str, Any]]) -> None:
        self.run, self.guider = run, guider
        self.memory_mode: MemoryMode = run.budget.memory_mode
        self.memories: dict[int, dict[str, Any]] = {}  # of each objective, by its place in the run
        for objective in run.objectives:
            rows_of_guidance(objective, entries)

    def intervals(self, sigmas: torch.Tensor) -> tuple[int, ...]:
        return tuple(self.plan(sigmas))

    def plan(self, sigmas: torch.Tensor) -> dict[int, tuple[Objective, ...]]:
        return self.run.active(sigmas, self.guider.model_patcher.get_model_object("model_sampling"))

    def __call__(self, start: StepStart) -> torch.Tensor:
        """z_t "b c f h w" after at most `iterations` updates, or as it was where a sample was left alone."""
        began = time.perf_counter()
        objectives = tuple(self.at_step(objective, float(start.sigmas[start.index])) for objective in self.plan(start.sigmas)[start.index])
        self.show_progress(start.index, 0)
        try:
            result, agreement = self.within_memory(lambda mode: self.optimise(start, objectives, mode))
        except PhraseNotFound as error:  # its entry is out of its timestep range
            self.skip(start.index, str(error))
            return start.x
        self.record(start, objectives, result, agreement)
        self.run.link.report.guidance_seconds = (self.run.link.report.guidance_seconds or 0.0) + time.perf_counter() - began
        return result.z

    def at_step(self, objective: Objective, sigma: float) -> Objective:
        if not isinstance(objective, StepwiseObjective):
            return objective
        place = next(place for place, one in enumerate(self.run.objectives) if one is objective)
        return objective.at_step(sigma, self.memories.setdefault(place, {}))

    def optimise(self, start: StepStart, objectives: Sequence[Objective], mode: MemoryMode) -> Edit:
        budget = dataclasses.replace(self.run.budget, memory_mode=mode)
        phrases, _ = shared_phrases(objectives)
        sigma = start.sigmas[start.index] * start.x.new_ones([start.x.shape[0]])
        entries = entries_at(positive_entries(self.guider), float(sigma[0]))
        rows = rows_of_entries(entries, phrases)
        blend = masked_part(start, sigma)
        model_options = start.extra_args.get("model_options", {})
        evaluations = Evaluations(phrases, self.run.link.report.maps)

        with attention_capture(self.guider.inner_model, model_options, budget) as attention_of:
            # clones, because inference tensors cannot be saved for backward
            mask, kept = (part.clone() for part in blend) if blend else (None, 0.0)

            def capture(z: torch.Tensor) -> torch.Tensor:
                seen = z if mask is None else z * mask + kept
                maps: list[list[tuple[torch.Tensor, torch.Tensor | None]]] = [[] for _ in phrases]
                for entry, groups in zip(entries, rows, strict=True):
                    if groups:
                        found = attention_of(entry, seen, sigma, tuple(groups.values()), [phrases[place] for place in groups])
                        for column, place in enumerate(groups):
                            maps[place].append((found[:, column], attention_of.held))
                return evaluations.seen(torch.stack([mean_over_entries(of_entries) for of_entries in maps], dim=1))

            result = optimise_latent(
                start.x,
                capture,
                objectives,
                budget,
                self.run.fps,
                mask,
                lambda record: self.after_iteration(start.index, record),
            )
        evaluations.keep(self.run.link.first_step + start.index, result.history.kept)
        agreement = torch.stack(attention_of.agreements).mean(0).tolist() if attention_of.agreements else None
        return in_passes(result, attention_of.passes), agreement

    def after_iteration(self, index: int, record: IterationRecord) -> None:
        self.show_progress(index, record.iteration + 1)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def show_progress(self, index: int, iterations: int) -> None:
        """The step's own denoising counts as one more iteration."""
        self.run.link.progress(index + min(iterations / (self.run.budget.iterations + 1), 0.99))

    def within_memory(self, attempt: Callable[[MemoryMode], Edit]) -> Edit:
        """Out of memory: try once more in the next memory mode, and keep that mode for the rest of the run."""
        result, _ = within_memory(lambda: attempt(self.memory_mode))
        mode = next_memory_mode(self.memory_mode)
        if result is None and mode:
            note = f"out of memory in memory mode {self.memory_mode}: went on in {mode}"
            logger.warning("Wan Conductor: %s", note)
            self.run.link.report.notes.append(note)
            self.memory_mode = mode
            result, _ = within_memory(lambda: attempt(self.memory_mode))
        if result is None:
            raise out_of_memory(self.memory_mode)
        return result

    def skip(self, index: int, reason: str) -> None:
        step = self.run.link.first_step + index
        logger.warning("Wan Conductor: step %d is not guided: %s", step, reason)
        self.run.link.report.skipped.append(SkippedStep(step, reason))

    def record(
        self, start: StepStart, objectives: Sequence[Objective], result: OptimisedLatent, agreement: list[float] | None
    ) -> None:
        budget = dataclasses.replace(self.run.budget, memory_mode=self.memory_mode)
        diffusion_model = self.guider.inner_model.diffusion_model
        self.run.link.report.steps.append(
            GuidedStep(
                step=self.run.link.first_step + start.index,
                sigma=float(start.sigmas[start.index]),
                model=self.run.link.model,
                phrases=[[ref.phrase for ref in one.phrases if not isinstance(ref, PhraseAt)] for one in objectives],
                depth=len(blocks_in_use(diffusion_model, budget.depth)) / len(diffusion_model.blocks),
                recomputes=budget.recomputes,
                loop=result.history,
                depth_agreement=finite(agreement),
            )
        )
        for sample, reason in enumerate(result.history.stop):
            if "not finite" in reason:
                self.skip(start.index, f"{reason} (sample {sample})")


def mean_over_entries(found: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> torch.Tensor:
    """Maps "b f h w" of one phrase, each with the frames "f" that its entry holds (None: all): their mean, frame by frame.

    Where no prompt with the phrase is shown, it has no attention: 0.
    """
    maps = torch.stack([of_entry for of_entry, _ in found])
    if all(held is None for _, held in found):
        return maps.mean(0)
    count = torch.stack([maps.new_ones(maps.shape[2]) if held is None else held.to(maps) for _, held in found]).sum(0)
    return maps.sum(0) / count.clamp(min=1)[:, None, None]


def in_passes(result: OptimisedLatent, passes: int) -> OptimisedLatent:
    """The cost in passes of the model: the loop counts evaluations, and each may be several."""
    history = result.history
    backwards = history.backwards * passes // history.forwards
    return dataclasses.replace(result, history=dataclasses.replace(history, forwards=passes, backwards=backwards))


def masked_part(start: StepStart, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """With a noise mask the host shows the model x * mask + kept: mask and kept "b c f h w", as KSamplerX0Inpaint blends them."""
    mask = start.extra_args.get("denoise_mask")
    if mask is None:
        return None
    model = start.model
    options = start.extra_args.get("model_options", {})
    if "denoise_mask_function" in options:
        mask = options["denoise_mask_function"](sigma, mask, extra_options={"model": model.inner_model, "sigmas": model.sigmas})
    base = model.inner_model.inner_model
    kept = base.scale_latent_inpaint(x=start.x, sigma=sigma, noise=model.noise, latent_image=model.latent_image)
    return mask, kept * (1.0 - mask)


def out_of_memory(mode: MemoryMode) -> RuntimeError:
    budget = "the budget's `depth`" if next_memory_mode(mode) is None else f"the budget's `memory_mode` (now {mode}) or its `depth`"
    return RuntimeError(f"Wan Conductor: out of memory in the gradient pass: lower {budget}, the resolution, or the number of frames.")
