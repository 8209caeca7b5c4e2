"""KV sharing: a window's self-attention reads the keys and values of another window. DiTCtrl (CVPR 2025), section 3.2.

Wan has no joint text and video sequence: DiTCtrl's video-to-video block is Wan's self-attention, its video-to-text block the text
attention. Only the first is shared; each window keeps its own prompt.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from .attention_maps import phrase_attention
from .objective import PhraseRef
from .patch import AttentionCall, AttentionSite, Handler, Proceed, VideoGrid
from .ranges import check_choice, check_percents, check_range

NAME = "Multi Prompt Blend"
Memory = Literal["gpu", "cpu"]
EPSILON = 1e-6  # of the official code


@dataclass(frozen=True)
class KVSharing:
    """Which part of the run is shared, and how.

    start_percent, end_percent: span of the schedule, 0..1; the official code's steps 2 to 24 of 50. Longer: more alike, less of the
    later prompt.
    last_blocks: share of the model's blocks, from the last one back; the official code's 25 to 29 of 30. Higher: more alike.
    phrase: a thing in the prompts: it attends to itself in the window before, the rest to the rest. None, as the official code by default:
    everything attends to everything there.
    threshold: a token belongs to the phrase from this share of its frame's range of attention. Higher: a smaller mask.
    memory: where keys and values wait for the next window: gpu, or cpu, slower and free of video memory.
    """

    start_percent: float = 0.04
    end_percent: float = 0.5
    last_blocks: float = 1 / 6
    phrase: PhraseRef | None = None
    threshold: float = 0.3
    memory: Memory = "gpu"

    def __post_init__(self) -> None:
        check_percents(NAME, self.start_percent, self.end_percent, "kv_")
        check_range(NAME, "kv_last_blocks", self.last_blocks, 0, 1)
        check_range(NAME, "threshold", self.threshold, 0, 1)
        check_choice(NAME, "kv_memory", self.memory, get_args(Memory))

    def blocks(self, count: int) -> range:
        """The shared ones of a model of `count` blocks; at least the last one, unless the share is 0."""
        if self.last_blocks == 0:
            return range(0)
        return range(min(count - 1, round(count * (1 - self.last_blocks))), count)


@dataclass(frozen=True)
class WindowKV:
    """What one block of one window leaves: k past RoPE and v "b n (h d)", and which tokens are the phrase's, bool "b n" or None."""

    window: int
    k: Tensor
    v: Tensor
    mask: Tensor | None


class KVStore:
    """Keys and values of one step, by block and by side of the guidance; a later window's replace those of the one before.

    most_bytes: the most that it ever held.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.most_bytes = 0
        self._kept: dict[tuple[int, Hashable], WindowKV] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, block: int, side: Hashable, kv: WindowKV) -> None:
        if self.memory == "cpu":
            kv = replace(kv, k=in_main_memory(kv.k), v=in_main_memory(kv.v))
        self._kept[block, side] = kv
        self.most_bytes = max(self.most_bytes, sum(kept.k.nbytes + kept.v.nbytes for kept in self._kept.values()))

    def get(self, block: int, side: Hashable, window: int, device: torch.device) -> WindowKV | None:
        """What `window` left there, on `device`; None if it did not run that block for that side."""
        kv = self._kept.get((block, side))
        if kv is None or kv.window != window:
            return None
        return replace(kv, k=kv.k.to(device, non_blocking=True), v=kv.v.to(device, non_blocking=True))

    def clear(self) -> None:
        self._kept.clear()


def in_main_memory(x: Tensor) -> Tensor:
    """A copy; pinned if it comes from a GPU, so that it travels beside the computation and in its order."""
    copy = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=x.is_cuda)
    return copy.copy_(x, non_blocking=True)


@dataclass(frozen=True)
class Side:
    """Rows of a model call that belong to one cond: the positive prompt of this window, a negative one, ..."""

    key: Hashable
    rows: slice
    positive: bool


class SharedPass:
    """One evaluation of one window: its self-attention reads `source`'s keys and values, and leaves its own if `keeps`.

    It may take several model calls, one for each side. With a phrase the positive one must come first: its mask serves all.
    """

    def __init__(
        self, sharing: KVSharing, store: KVStore, window: int, source: int | None, keeps: bool, phrase_rows: Sequence[int] = ()
    ) -> None:
        self.sharing, self.store, self.window, self.source, self.keeps = sharing, store, window, source, keeps
        self.phrase_rows = tuple(phrase_rows)
        self._masks: dict[int, Tensor] = {}

    def handler(self, grid: VideoGrid, blocks: int, sides: Sequence[Side], pad_rows: slice | None = None) -> Handler:
        """For one model call whose batch rows are those of `sides`, in that order, in a model of so many `blocks`."""
        shared = self.sharing.blocks(blocks)
        running: list[Tensor] = []  # attention of the phrase in the blocks so far

        def share(site: AttentionSite, call: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.vace:
                return None
            positive = next((side for side in sides if side.positive), None)
            if site.kind == "text" and self.phrase_rows and positive is not None:
                q = call.q[positive.rows, grid.video_tokens]
                running.append(phrase_attention(q, call.k[positive.rows], call.heads, [self.phrase_rows], pad_rows)[:, 0])
            if site.kind != "self" or site.block not in shared:
                return None
            if running:
                attention = rearrange(torch.stack(running).mean(0), "b (f h w) -> b f h w", f=grid.frames, h=grid.height)
                mask = call.k.new_zeros(attention.shape[0], call.k.shape[1], dtype=torch.bool)
                mask[:, grid.video_tokens] = object_mask(attention, self.sharing.threshold).flatten(1)
                self._masks[site.block] = mask
            return self._attend(site.block, grid, call, sides, proceed)

        return share

    def _attend(self, block: int, grid: VideoGrid, call: AttentionCall, sides: Sequence[Side], proceed: Proceed) -> Tensor | None:
        mask = self._masks.get(block)
        sources = [self._source(block, side, call) for side in sides]
        if self.keeps:
            for side in sides:
                self.store.put(block, side.key, WindowKV(self.window, call.k[side.rows], call.v[side.rows], mask))
        if not any(sources):
            return None
        own = [WindowKV(self.window, call.k[side.rows], call.v[side.rows], None) for side in sides]
        read = [source or kept for source, kept in zip(sources, own, strict=True)]
        if mask is None or all(kv.mask is None for kv in read):
            return proceed(replace(call, k=torch.cat([kv.k for kv in read]), v=torch.cat([kv.v for kv in read])))
        other = torch.ones(call.k.shape[1], dtype=torch.bool, device=call.k.device)
        other[grid.video_tokens] = False
        attend = lambda q, k, v: proceed(replace(call, q=q, k=k, v=v))  # noqa: E731
        rows = [
            masked_attention(attend, q[None], k[None], v[None], inside, kv.mask[b], other)
            if kv.mask is not None
            else attend(q[None], k[None], v[None])
            for side, kv in zip(sides, read, strict=True)
            for b, (q, k, v, inside) in enumerate(zip(call.q[side.rows], kv.k, kv.v, mask, strict=True))
        ]
        return torch.cat(rows)

    def _source(self, block: int, side: Side, call: AttentionCall) -> WindowKV | None:
        return None if self.source is None else self.store.get(block, side.key, self.source, call.k.device)


def object_mask(attention: Tensor, threshold: float) -> Tensor:
    """Min-max normalised in each frame on its own, then >= threshold: "b f h w" -> bool "b f h w"."""
    low, high = attention.amin((-2, -1), keepdim=True), attention.amax((-2, -1), keepdim=True)
    return (attention - low) / (high - low + EPSILON) >= threshold


def masked_attention(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, inside: Tensor, source: Tensor, other: Tensor
) -> Tensor:
    """M_t Attn(Q, K_s, V_s over M_s) + (1 - M_t) Attn(Q, K_s, V_s over not M_s): "1 n (h d)", each query computed once.

    q of the target; k, v of the source; bool "n": `inside` M_t of the queries, `source` M_s of the keys, `other` tokens that are no video
    (reference frames) and open to all. By gathering rows: no mask reaches the kernel. M_s empty or full separates nothing: plain.
    """
    if not source.any() or bool((source | other).all()):
        return attend(q, k, v)
    out = torch.empty_like(q)
    for queries, keys in ((inside, source | other), (~inside, ~source)):
        if queries.any():
            out[:, queries] = attend(q[:, queries], k[:, keys], v[:, keys])
    return out
