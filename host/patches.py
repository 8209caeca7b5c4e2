"""The patches of one run: asked at every model call of their part of the schedule, told whose rows and which frames it holds."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from torch import Tensor

from ..guidance.attention_maps import find_pad_rows
from ..guidance.patch import Handler, ModelCall, Patch, PromptRows, VideoGrid
from ..guidance.report import GuidanceReport, PatchReport
from .geometry import window_frames
from .positive import positive_entries, positive_rows, rows_with_text, shared_uuids
from .run import with_something_to_do
from .schedule import guided_intervals, progress_at
from .tokens import rows_of_guidance


def running_patches(
    guidance: Sequence[Any], guider: Any, sigmas: Tensor, report: GuidanceReport, model: str, first_step: int, fps: float, measure: bool
) -> list["RunningPatch"]:
    """The patches of `guidance` that act in this run. Raises what `rows_of_guidance` raises."""
    running = []
    for patch in with_something_to_do([g for g in guidance if isinstance(g, Patch)], report, fps):
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        intervals = guided_intervals(sigmas, model_sampling, patch.start_percent, patch.end_percent)
        if intervals:
            of_report = PatchReport(patch.name, model, [first_step + index for index in intervals])
            report.patches.append(of_report)
            running.append(RunningPatch(patch, intervals, guider, sigmas, of_report, report.latent_frames, fps, measure))
    return running


class RunningPatch:
    """One patch in one run of one sampler."""

    def __init__(
        self, patch: Patch, intervals: Sequence[int], guider: Any, sigmas: Tensor, report: PatchReport, frames: int, fps: float,
        measure: bool,
    ) -> None:
        self.patch, self.report, self.frames, self.fps = patch, report, frames, fps
        self.model_sampling = guider.model_patcher.get_model_object("model_sampling")
        self.blocks = len(guider.model_patcher.model.diffusion_model.blocks)
        self.spans = [(float(sigmas[index]), float(sigmas[index + 1])) for index in intervals]
        self.record = patch.new_record() if measure else None
        self.guider = guider
        self.prompts: list[tuple[dict[str, Any], dict[int, tuple[int, ...]]]] = []
        if patch.phrases:
            entries = positive_entries(guider)
            self.prompts = list(zip(entries, rows_of_guidance(patch, entries), strict=True))

    def handlers(self, grid: VideoGrid, context: Tensor, transformer_options: dict[str, Any]) -> list[Handler]:
        """Its handler for this call, or none: outside the span, or where it does not want this call."""
        sigma = float(transformer_options["sigmas"].max())
        if not any(self.within(sigma, span) for span in self.spans):
            return []
        prompts = [
            PromptRows(mask, text_rows, find_pad_rows(context[mask]))
            for entry, text_rows in self.prompts
            if (mask := self.rows_of(entry, context, transformer_options)).any()
        ]
        call = ModelCall(
            grid,
            window_frames(transformer_options, grid.frames),
            self.frames,
            sigma,
            progress_at(self.model_sampling, sigma),
            self.blocks,
            tuple(prompts),
            find_pad_rows(context) if self.prompts else None,
            self.fps,
            context.shape[0] // len(transformer_options["cond_or_uncond"]),
        )
        handler = self.patch.handler(call, self.record)
        return [] if handler is None else [handler]

    def rows_of(self, entry: dict[str, Any], context: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        """The rows "b" of this call that are the positive `entry`'s."""
        mask = positive_rows(transformer_options, {entry["uuid"]}, context.shape[0])
        return rows_with_text(context, entry["cross_attn"], mask) if entry["uuid"] in self.shared_uuids else mask

    @cached_property
    def shared_uuids(self) -> set[UUID]:
        """Asked in the first model call: the host copies area conds to the other side after this object is made."""
        return shared_uuids(self.guider)

    @staticmethod
    def within(sigma: float, span: tuple[float, float]) -> bool:
        """A step begins at its sigma; samplers may ask again anywhere inside it. Sigmas may have passed through half precision."""
        begin, end = span
        slack = 1e-3 * (begin - end)
        return begin + slack >= sigma > end + slack

    def finish(self) -> None:
        if self.record is not None:
            self.report.measured = self.record.to_dict()


def all_handlers(running: Sequence[RunningPatch]):
    """`make_handlers` of `attention_wrapper` for these patches, the first attached outermost."""

    def make_handlers(grid: VideoGrid, context: Tensor, transformer_options: dict[str, Any]) -> list[Handler]:
        return [handler for patch in running for handler in patch.handlers(grid, context, transformer_options)]

    return make_handlers
