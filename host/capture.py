"""Attention of phrases, measured in a conditional pass of the sampled model and differentiable in its latent."""

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor, nn

from ..guidance.attention_maps import find_pad_rows, phrase_attention
from ..guidance.budget import GuidanceBudget
from ..guidance.objective import PhraseAt, PhraseRef
from ..guidance.patch import AttentionCall, AttentionSite, Handler, Proceed, VideoGrid
from ..guidance.phrase_maps import depth_agreement
from .attention import SiteTags, site_tags, with_override
from .blocks import BlockOutputs, EnoughBlocks, measured_blocks
from .geometry import video_grid
from .gradient import GradientScale, frozen_weights, gradient_mode

KEY = "wan_conductor_capture"


@contextlib.contextmanager
def attention_capture(inner_model: Any, model_options: dict[str, Any], budget: GuidanceBudget) -> Iterator["AttentionCapture"]:
    """Within: `capture(entry, z, sigma, groups)` gives maps "b g f h w" with a gradient.

    Gradients are on and the model is prepared for them; take them before leaving, for the backward pass runs blocks again. On leaving, by
    an exception too, the model is as it was.
    `inner_model` and `model_options` are the guider's and the sampler's: everything else that acts on the model acts here too,
    except wrappers (step caches, torch.compile) and attention kernels of other packs, which know nothing of gradients.
    """
    if "multigpu_clones" in model_options:
        raise ValueError("Guided steps cannot run on ComfyUI's MultiGPU work units yet; remove that node, or guide without objectives.")
    diffusion_model = inner_model.diffusion_model
    outputs = BlockOutputs()
    with contextlib.ExitStack() as undo:
        undo.enter_context(gradient_mode())
        for model in (diffusion_model, *models_of_patches(inner_model)):
            undo.enter_context(frozen_weights(model))
        undo.enter_context(measured_blocks(diffusion_model, outputs, budget.memory_mode))
        tags = undo.enter_context(site_tags(diffusion_model))
        yield AttentionCapture(inner_model, model_options, blocks_in_use(diffusion_model, budget.depth), outputs, tags)


def models_of_patches(inner_model: Any) -> list[nn.Module]:
    """Models that patches run inside Wan's forward (Uni3C, MultiTalk)."""
    patchers = inner_model.current_patcher.model_patches_models()
    return list({id(patcher.model): patcher.model for patcher in patchers}.values())


def blocks_in_use(diffusion_model: nn.Module, depth: float) -> range:
    """The first `depth` (0..1] share of the main blocks, one at least."""
    count = len(diffusion_model.blocks)
    return range(min(count, max(1, math.ceil(depth * count - 1e-6))))


class AttentionCapture:
    """Made by `attention_capture`. Call it as often as the optimiser asks, for every positive entry."""

    def __init__(
        self, inner_model: Any, model_options: dict[str, Any], blocks: Sequence[int], outputs: BlockOutputs, tags: SiteTags
    ) -> None:
        self._inner_model = inner_model
        self._model_options = model_options
        self._blocks = frozenset(blocks)
        self._outputs = outputs
        self._tags = tags
        self._hooks: list[Any] = []
        self._places = Places((), ())
        self._grid = VideoGrid(0, 0, 0)
        self.passes = 0  # model calls so far: one for each positive entry, and for each context window of it
        self.agreements: list[Tensor] = []  # `depth_agreement` "l" of each pass, mean over samples and phrases
        self.held: Tensor | None = None  # bool "f": the frames that the last entry has a prompt for; None: all

    def __call__(
        self, entry: dict[str, Any], z: Tensor, sigma: Tensor, groups: Sequence[Sequence[int]], refs: Sequence[PhraseRef] = ()
    ) -> Tensor:
        """A_i of `groups` (text rows of each phrase): mean over the blocks in use and their heads, fp32 "b g f h w", f h w in tokens.

        `refs`: whose rows they are; the map of a `PhraseAt` is that of its block and heads, whether or not that block is in use.
        `entry`: one converted positive cond, active at `sigma`. `z` "b c f h w": the sampler's x. `sigma`: scalar or "b".
        """
        self._same_hooks(entry)
        self._places, self.held = Places(groups, refs), None
        if beyond := [block for block in self._places.at if block >= len(self._inner_model.diffusion_model.blocks)]:
            raise ValueError(f"attention was asked of block {max(beyond)}, and the model ends before it: it is another model's")
        sigma = sigma.detach().reshape(-1).expand(z.shape[0]).clone()
        # Wan's forward ignores `control`, and a control network has no part in frozen_weights.
        conds = [[{name: value for name, value in entry.items() if name != "control"}]]
        handler = self._model_options.get("context_handler")
        if handler is not None and handler.should_use_context(self._inner_model, conds, z, sigma, self._model_options):
            return self._by_windows(handler, conds, z, sigma)
        return self._measure(conds, z, sigma, self._model_options)

    def _measure(self, conds: list[list[dict[str, Any]]], z: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> Tensor:
        self._outputs.of_pass.clear()
        self.passes += 1
        scale = GradientScale()
        try:
            comfy.samplers.calc_cond_batch(self._inner_model, conds, scale.leaving(z), sigma, self._options_of_pass(model_options))
        except EnoughBlocks:
            pass
        except RuntimeError as error:
            if "Inference tensors cannot be saved" in str(error):
                raise RuntimeError(
                    "A patch on this model (InfiniteTalk's, or one of another pack) keeps weights of its own: no gradient can pass it. "
                    "Temporal Mask in mode bias, Event Schedule and Spectral Homeostasis need none."
                ) from error
            raise
        maps, grid = list(self._outputs.of_pass), self._grid
        self._outputs.of_pass.clear()
        if not maps:
            raise RuntimeError(f"a gradient pass saw no text attention at sigma {float(sigma[0]):.4f}: is this positive entry active?")
        if not self._places.at:
            self.agreements.append(depth_agreement(torch.stack(maps)).mean((1, 2)))
        found = scale.entering(self._places.in_order(maps, self._blocks))
        return rearrange(found, "b g (f h w) -> b g f h w", f=grid.frames, h=grid.height, w=grid.width)

    def _by_windows(self, handler: Any, conds: list[list[dict[str, Any]]], z: Tensor, sigma: Tensor) -> Tensor:
        """Context windows, each measured on its own; a latent frame gets the mean over the windows that hold it.

        Multi Prompt Blend runs only the windows whose prompt `conds` is; the other frames are 0 and not `held`.
        """
        sums: list[list[Tensor]] = [[] for _ in range(z.shape[2])]

        measured: set[tuple[int, ...]] = set()

        def measure(model: Any, conds: Any, x: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> list[Tensor]:
            window = model_options["transformer_options"]["context_window"]
            if (frames := tuple(window.index_list)) in measured:  # the blend's plan faithful runs a window twice: here nothing is shared
                return [torch.zeros_like(x) for _ in conds]
            measured.add(frames)
            maps = self._measure(conds, x, sigma, model_options)
            for frame, of_frame in zip(window.index_list, maps[:, :, -len(window.index_list):].unbind(2), strict=True):
                sums[frame].append(of_frame)
            return [torch.zeros_like(x) for _ in conds]

        model_options = comfy.model_patcher.create_model_options_clone(self._model_options)  # the handler writes the window into it
        handler.execute(measure, self._inner_model, conds, z, sigma, model_options)
        if not all(sums):
            self.held = torch.tensor([bool(of_frame) for of_frame in sums], device=z.device)
        nothing = torch.zeros_like(next(of_frame[0] for of_frame in sums if of_frame))
        return torch.stack([torch.stack(of_frame).mean(0) if of_frame else nothing for of_frame in sums], dim=2)

    def _options_of_pass(self, model_options: dict[str, Any]) -> dict[str, Any]:
        options = comfy.model_patcher.create_model_options_clone(model_options)
        for name in ("context_handler", "model_function_wrapper"):
            options.pop(name, None)
        options.setdefault("transformer_options", {})["wrappers"] = {WrappersMP.DIFFUSION_MODEL: {KEY: [self._run_model]}}
        return options

    def _run_model(
        self, executor: Any, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None, transformer_options: dict[str, Any] | None = None, **kwargs: Any,
    ) -> Tensor:
        self._grid = video_grid(executor.class_obj, x, kwargs)
        measure = self._measuring(self._grid, self._places, find_pad_rows(context))
        options = with_override(transformer_options or {}, self._tags, [measure], backend=attention_pytorch)
        return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    def _measuring(self, grid: VideoGrid, places: "Places", pad_rows: slice | None) -> Handler:
        """The handler of one model call, bound to its text: the backward pass runs its blocks again after later entries were measured."""
        last = max({*self._blocks, *places.at} if places.everywhere else places.at)

        def measure_text(site: AttentionSite, call: AttentionCall, proceed: Proceed) -> None:
            if site.kind != "text" or site.vace:
                return
            q = call.q[:, grid.video_tokens]
            if site.block in self._blocks and places.everywhere:
                self._outputs.add(phrase_attention(q, call.k, call.heads, places.rows(places.everywhere), pad_rows))
            for heads, wanted in places.at.get(site.block, {}).items():
                mine = heads_of(call.heads, *heads)
                own = [rearrange(x, "b n (h d) -> b n h d", h=call.heads)[:, :, mine].flatten(2) for x in (q, call.k)]
                self._outputs.add(phrase_attention(*own, len(range(*mine.indices(call.heads))), places.rows(wanted), pad_rows))
            if site.block == last:
                raise EnoughBlocks

        return measure_text

    def _same_hooks(self, entry: dict[str, Any]) -> None:
        """Hooks patch the weights for one entry; the backward pass of another would use them."""
        self._hooks.append(entry.get("hooks"))
        if any(hooks != self._hooks[0] for hooks in self._hooks[1:]):
            raise ValueError("Guided steps need the same hooks on every positive conditioning: apply a LoRA hook to all, or to none.")
        self._hooks = self._hooks[:1]


def heads_of(heads: int, group: int, groups: int) -> slice:
    """Share `group` of `groups` of a block's heads; as even as they divide."""
    if not 0 <= group < groups <= heads:
        raise ValueError(f"share {group} of {groups} of {heads} heads: there is none")
    return slice(group * heads // groups, (group + 1) * heads // groups)


class Places:
    """Which maps one capture measures, by place in its result: those of all blocks together, and those of one block and share of heads."""

    def __init__(self, groups: Sequence[Sequence[int]], refs: Sequence[PhraseRef]) -> None:
        self.groups = groups
        self.everywhere: list[int] = []
        self.at: dict[int, dict[tuple[int, int], list[int]]] = {}
        for place, ref in zip(range(len(groups)), refs or [None] * len(groups), strict=True):
            if isinstance(ref, PhraseAt):
                self.at.setdefault(ref.block, {}).setdefault((ref.head_group, ref.head_groups), []).append(place)
            else:
                self.everywhere.append(place)

    def rows(self, places: Sequence[int]) -> list[Sequence[int]]:
        return [self.groups[place] for place in places]

    def in_order(self, measured: Sequence[Tensor], blocks: Collection[int]) -> Tensor:
        """What was measured, block after block, as "b g n" in the order of the groups; the mean over `blocks` for those of all."""
        maps: list[Tensor | None] = [None] * len(self.groups)
        left, of_blocks = iter(measured), []
        for block in sorted({*(blocks if self.everywhere else ()), *self.at}):
            if self.everywhere and block in blocks:
                of_blocks.append(next(left))
            for wanted in self.at.get(block, {}).values():
                for place, found in zip(wanted, next(left).unbind(1), strict=True):
                    maps[place] = found
        if of_blocks:
            for place, found in zip(self.everywhere, torch.stack(of_blocks).mean(0).unbind(1), strict=True):
                maps[place] = found
        return torch.stack([found for found in maps if found is not None], dim=1)
