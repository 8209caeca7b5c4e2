"""Multi Prompt Blend in the host's sampling: a context handler that lives for one run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import comfy.model_management
import torch
from comfy.context_windows import IndexListContextHandler, IndexListContextWindow
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ..guidance.attention_maps import find_pad_rows
from ..guidance.blend import Evaluation, MultiPromptBlend, blend_weights
from ..guidance.blend_record import SeamWatch, blend_record
from ..guidance.kv_sharing import NAME, KVStore, SharedPass, Side
from ..guidance.latent_time import pixel_frames
from ..guidance.objective import Objective
from ..guidance.patch import Handler, VideoGrid
from ..guidance.report import PatchReport
from .blend_prompts import check_windows, entries_of_window, phrase_rows_of_windows, window_of, words_of_prompts
from .geometry import takes_start_image
from .guided_steps import uncached
from .patches import RunningPatch
from .positive import has_area, positive_entries
from .run import SamplerLink
from .schedule import guided_intervals

KEY = "wan_conductor_blend"
AUDIO = "audio_embeds"  # where the host's WanInfiniteTalkToVideo leaves the audio
BATCH_DIM, FRAMES_DIM = 0, 2  # of a latent "b c f h w"


def start_blend(guidance: Sequence[Any], guider: Any, noise: Tensor, sigmas: Tensor, link: SamplerLink) -> "RunningBlend | None":
    """The blend of this run, installed in the guider's options, which are the run's own; None: there is none, or only one window.

    Raises ValueError, before the model is loaded, for a latent of another size, other prompts, and set-ups that it does not support.
    """
    blends = [g for g in guidance if isinstance(g, MultiPromptBlend)]
    if not blends:
        positive = (getattr(guider, "conds", None) or {}).get("positive") or ()  # a guider of another pack may hold none
        if sum(window_of(entry) is not None for entry in positive) > 1:
            raise ValueError(f"{NAME}: input `positive` of the sampler holds its windows' prompts, but `model` is not the one it put out.")
        return None
    blend = blends[0]
    if len(blends) > 1:
        raise ValueError(f"{NAME}: model = blended by {len(blends)} of these nodes; keep one.")
    check_latent(blend, noise)
    if len(blend.prompts) == 1:
        return None
    if guider.model_options.get("context_handler") is not None:
        raise ValueError(f"{NAME}: model = already divided by a context windows node; remove that node, the blend makes its own windows.")
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        raise ValueError(f"{NAME}: model = split into MultiGPU work units, whose windows cannot see each other; remove that node.")
    if blend.mode == "blend" and AUDIO in guider.model_options.get("transformer_options", {}):
        remedy = "give the blend one prompt of one window, or take InfiniteTalk off"
        raise ValueError(f"{NAME}: model = with InfiniteTalk, whose audio and first frames are the whole video's: {remedy}.")
    names = ", ".join(dict.fromkeys(g.name for g in guidance if isinstance(g, Objective)))
    if names and blend.mode == "word swap":
        raise ValueError(f"{names}: model = in word swap, whose videos are sampled one after another: take that off, or set mode blend.")
    positive_entries(guider)  # refuses a guider that holds none
    check_windows(guider.conds, blend)
    if any(has_area(entry) for entries in guider.conds.values() for entry in entries):
        remedy = "use Conditioning (Set Mask), set_cond_area default"
        raise ValueError(f"{NAME}: positive or negative of the sampler = set to an area, and areas are not blended: {remedy}.")
    running = RunningBlend(blend, guider, sigmas, link)
    options = guider.model_options
    options["context_handler"] = running
    add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, running.prepare_sampling, options.setdefault("transformer_options", {}))
    return running


def check_latent(blend: MultiPromptBlend, noise: Tensor) -> None:
    """Raise ValueError unless the latent has the length, or in word swap the batch, that the blend needs."""
    latent, remedy = "input `latent_image` of the sampler", "connect the node's output LATENT, or set that"
    if noise.ndim != 5:  # the host packs several latents (picture and sound) into one row of numbers
        raise ValueError(f"{NAME}: {latent} = several latents in one, where Wan has the video's alone: connect the node's output LATENT.")
    if blend.mode == "word swap":
        videos, needed = noise.shape[BATCH_DIM], len(blend.prompts)
        if videos != needed:
            raise ValueError(f"{NAME}: {latent} = {videos} videos, where word swap needs {needed}, one a prompt: {remedy} batch size.")
        return
    frames, needed = noise.shape[FRAMES_DIM], blend.latent_frames
    if frames != needed:
        has, needs = (f"{latents} latent frames ({pixel_frames(latents)} frames)" for latents in (frames, needed))
        raise ValueError(f"{NAME}: {latent} = {has}, where these prompts need {needs}: {remedy} length.")


class RunningBlend(IndexListContextHandler):
    """The windows of one run. The host's handler gives the cutting of conds to a window, and its convention for the start image."""

    def __init__(self, blend: MultiPromptBlend, guider: Any, sigmas: Tensor, link: SamplerLink) -> None:
        swap = blend.mode == "word swap"
        # the 5B has its start image in the latent, where no window can borrow it
        retained = "0" if blend.retain_first_frame and takes_start_image(guider.model_patcher) else ""
        super().__init__(
            None, None, context_length=1 if swap else blend.window, context_overlap=0 if swap else blend.overlap,
            dim=BATCH_DIM if swap else FRAMES_DIM, cond_retain_index_list=retained,
        )
        self.blend = blend
        self.weights = None if swap else blend_weights(len(blend.prompts), blend.window, blend.overlap)
        self.blocks = len(guider.model_patcher.model.diffusion_model.blocks)
        self.positive = {entry["uuid"] for entry in positive_entries(guider) if window_of(entry) is not None}
        self.phrase_rows = phrase_rows_of_windows(positive_entries(guider), blend)
        self.sharing: list[int] = []  # steps of this run
        if blend.sharing is not None and blend.sharing.blocks(self.blocks):
            model_sampling = guider.model_patcher.get_model_object("model_sampling")
            self.sharing = list(guided_intervals(sigmas, model_sampling, blend.sharing.start_percent, blend.sharing.end_percent))
        self.spans = [(float(sigmas[index]), float(sigmas[index + 1])) for index in self.sharing]
        self.store = KVStore(blend.sharing.memory if blend.sharing else "gpu")
        self._pass: SharedPass | None = None
        self._sides: dict[tuple[int, Any], tuple[tuple[int, int], bool]] = {}
        self.passes = 0
        self.sigmas = sigmas[:-1].tolist()
        self.seams = SeamWatch(blend)
        self.words = words_of_prompts(positive_entries(guider), blend)
        self.report = PatchReport(NAME, link.model, list(range(link.first_step, link.first_step + len(sigmas) - 1)))
        link.report.patches.append(self.report)

    def same_noise(self, noise: Tensor) -> Tensor:
        """In word swap all videos of the batch begin from one noise."""
        return noise[:1].expand_as(noise).clone() if self.blend.mode == "word swap" else noise

    def finish(self) -> None:
        unlike = self.seams.of_steps(self.sigmas)
        self.report.measured = asdict(blend_record(self.blend, self.passes, self.sharing, self.store.most_bytes, self.words, unlike))

    def prepare_sampling(self, executor: Callable, model: Any, noise_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """PREPARE_SAMPLING wrapper: the host makes room for one window, and for the keys and values that wait beside it."""
        shape = list(noise_shape)
        shape[self.dim] = self.context_length
        if self.spans and self.store.memory == "gpu":
            share = self.waiting_bytes(model, shape) / model.model.memory_required(shape)
            shape[FRAMES_DIM] = math.ceil(shape[FRAMES_DIM] * (1 + share))
        return executor(model, shape, *args, **kwargs)

    def waiting_bytes(self, model: Any, shape: Sequence[int]) -> int:
        """Size of the kept keys and values of one side; the host doubles its estimate for two."""
        diffusion_model = model.model.diffusion_model
        tokens = shape[0] * math.prod(-(-size // patch) for size, patch in zip(shape[2:], diffusion_model.patch_size))
        blocks = len(self.blend.sharing.blocks(self.blocks)) if self.blend.sharing else 0
        size = comfy.model_management.dtype_size(model.model.manual_cast_dtype or model.model_dtype())
        return 2 * blocks * tokens * diffusion_model.dim * size

    def should_use_context(self, *_: Any) -> bool:
        return True

    def execute(
        self, calc_cond_batch: Callable, model: Any, conds: list[list[dict[str, Any]] | None], x_in: Tensor, timestep: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """Per cond list the blended prediction of the clean video "b c f h w".

        Guidance is linear in these, so that blending before it is blending after it. Windows whose prompt is not among `conds` (a
        gradient pass asks for one prompt at a time) are left out.
        """
        self._model = model  # what the host's cutting of conds asks
        sigma = float(timestep.max())
        shared = any(RunningPatch.within(sigma, span) for span in self.spans)
        model_options = uncached(model_options)  # EasyCache would take one window for another
        evaluations = self.blend.evaluations(windows_of(conds, len(self.blend.prompts)), shared)
        runs = [evaluation.window for evaluation in evaluations]
        blended = [torch.zeros_like(x_in) for _ in conds]
        of_prompt = next((index for index, entries in enumerate(conds) if self.is_positive(entries)), 0)
        try:
            for evaluation in evaluations:
                comfy.model_management.throw_exception_if_processing_interrupted()
                found = self.evaluate(evaluation, calc_cond_batch, model, conds, x_in, timestep, model_options)
                for total, predicted in zip(blended, found, strict=True):
                    self.add(total, predicted, evaluation.window, runs.count(evaluation.window))
                self.seams.see(sigma, evaluation.window, found[of_prompt])
                self.passes += 1
        finally:
            self.seams.step_over()
            self._pass, self._sides = None, {}
            self.store.clear()
        return blended

    def is_positive(self, entries: list[dict[str, Any]] | None) -> bool:
        return any(entry["uuid"] in self.positive for entry in entries or ())

    def add(self, total: Tensor, predicted: Tensor, window: int, evaluations: int) -> None:
        if self.weights is None:
            total[window : window + 1] += predicted
            return
        frames = self.blend.frames_of(window)
        weights = self.weights[window, frames.start : frames.stop].to(predicted) / evaluations
        total[:, :, frames.start : frames.stop] += weights[:, None, None] * predicted

    def evaluate(
        self, evaluation: Evaluation, calc_cond_batch: Callable, model: Any, conds: list[list[dict[str, Any]] | None], x_in: Tensor,
        timestep: Tensor, model_options: dict[str, Any],
    ) -> list[Tensor]:
        """The predictions of one window, one for each of `conds`."""
        number = evaluation.window
        of_window = [entries_of_window(entries, number) for entries in conds]
        options = model_options
        if self.weights is None:
            x, timestep = x_in[number : number + 1], timestep[number : number + 1] if len(timestep) > 1 else timestep
        else:
            frames = list(self.blend.frames_of(number))
            window = IndexListContextWindow(frames, dim=FRAMES_DIM, total_frames=x_in.shape[FRAMES_DIM])
            x = x_in[:, :, frames[0] : frames[-1] + 1]
            of_window = [self.cut_to_window(entries, x_in, window) for entries in of_window]
            # a copy, so that no later call finds this window
            options = {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), "context_window": window}}
        self._pass = None
        if self.blend.sharing is not None and (evaluation.keeps or evaluation.source is not None):
            rows = self.phrase_rows[number]
            self._pass = SharedPass(self.blend.sharing, self.store, number, evaluation.source, evaluation.keeps, rows)
            self._sides = {
                (index, entry["uuid"]): ((index, place), entry["uuid"] in self.positive)
                for index, entries in enumerate(of_window)
                for place, entry in enumerate(entries or ())
            }
            if rows:
                return self.prompt_first(calc_cond_batch, model, of_window, x, timestep, options)
        return calc_cond_batch(model, of_window, x, timestep, options)

    def cut_to_window(
        self, entries: list[dict[str, Any]] | None, x_in: Tensor, window: IndexListContextWindow
    ) -> list[dict[str, Any]] | None:
        """The host's cutting, but for masks "b f h w", whose third size it takes for time."""
        cut = self.get_resized_cond(entries, x_in, window)
        for entry, whole in zip(cut or (), entries or ()):
            mask = whole.get("mask")
            if mask is not None:
                entry["mask"] = mask[:, window.index_list] if mask.shape[1] == x_in.shape[FRAMES_DIM] else mask
        return cut

    def prompt_first(
        self, calc_cond_batch: Callable, model: Any, conds: list[list[dict[str, Any]] | None], x: Tensor, timestep: Tensor,
        options: dict[str, Any],
    ) -> list[Tensor]:
        """The positive prompt before the others: where a thing is, is read from it, and the host batches as it likes.

        A negative may have windows too: Conditioning (Zero Out) of the positive.
        """
        first = [self.is_positive(entries) for entries in conds]
        predicted = [torch.zeros_like(x) for _ in conds]
        for turn in (True, False):
            chosen = [entries if of_prompt == turn else None for entries, of_prompt in zip(conds, first, strict=True)]
            if any(chosen):
                found = calc_cond_batch(model, chosen, x, timestep, options)
                predicted = [new if entries else old for new, old, entries in zip(found, predicted, chosen)]
        return predicted

    def handlers(self, grid: VideoGrid, context: Tensor, transformer_options: dict[str, Any]) -> list[Handler]:
        """As RunningPatch.handlers: the attention handler of this model call, or none."""
        if self._pass is None:
            return []
        chunks = list(zip(transformer_options["cond_or_uncond"], transformer_options["uuids"], strict=True))
        size = context.shape[0] // len(chunks)
        sides = []
        for chunk, key in enumerate(chunks):
            side, positive = self._sides[key]
            sides.append(Side(side, slice(chunk * size, (chunk + 1) * size), positive))
        pad_rows = find_pad_rows(context) if self._pass.phrase_rows else None
        return [self._pass.handler(grid, self.blocks, sides, pad_rows)]


def windows_of(conds: Sequence[list[dict[str, Any]] | None], count: int) -> list[int]:
    """The windows whose prompts are in `conds`; all, where none says whose it is."""
    marked = {window for entries in conds for entry in entries or () if (window := window_of(entry)) is not None}
    return sorted(marked) or list(range(count))
