"""Attention of selected words: how much every video token looks at each phrase, exact and small."""

import math
from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import Tensor

# Elements of the largest temporary of one chunk, "b h n t" or "b n (h d)": 32 MiB in fp32.
CHUNK_ELEMENTS = 2**23


def find_pad_rows(context: Tensor) -> slice | None:
    """The longest tail of identical rows of `context` "b t c", the same in every batch entry; None if it is shorter than two rows.

    umT5 pads with equal rows and Wan does not mask them: they take part in the softmax (research 0.5).
    """
    same_as_last = (context == context[:, -1:]).all(dim=-1).all(dim=0)
    tail = int(same_as_last.flip(0).long().cumprod(0).sum())
    rows = context.shape[1]
    return slice(rows - tail, rows) if tail >= 2 else None


def phrase_attention(q: Tensor, k: Tensor, heads: int, groups: Sequence[Sequence[int]], pad_rows: slice | None = None) -> Tensor:
    """A_i = mean over heads and over the rows t of group i of softmax_t(q k^T / sqrt d), TempoControl section 3 (aggregation).

    `q` "b n (h d)" video tokens, `k` "b t (h d)" text rows, both as the block hands them to attention. `groups` holds the text rows of
    each phrase. The softmax runs over ALL text rows; `pad_rows` (identical rows, checked by the caller) become one column with
    log(N_pad) added, which changes nothing and shrinks it 10 to 20 times. Returns "b g n" in fp32 (fp64 for fp64 input),
    differentiable once in q and k. Nothing larger than a chunk of CHUNK_ELEMENTS is allocated besides q, k, the result and their gradients.
    """
    text_rows = k.shape[1]
    for rows in groups:
        if not rows or min(rows) < 0 or max(rows) >= text_rows:
            raise ValueError(f"phrase_attention: groups = {list(map(list, groups))}: each needs rows within 0..{text_rows - 1}")
    precision = torch.promote_types(k.dtype, torch.float32)
    k = k.to(precision)
    log_count = k.new_zeros(text_rows)
    group_weights = torch.zeros(len(groups), text_rows, dtype=precision)
    for group, rows in enumerate(groups):
        group_weights[group, list(rows)] = 1 / len(set(rows))
    group_weights = group_weights.to(k.device, non_blocking=k.is_cuda)  # filled there, each list would wait for the GPU to be idle
    if pad_rows is not None:
        k, log_count, group_weights = _collapse(k, log_count, group_weights, pad_rows)
    return _PhraseAttention.apply(q, k, log_count, group_weights, heads)


def _collapse(k: Tensor, log_count: Tensor, group_weights: Tensor, pad_rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """N equal columns e^s of a softmax are one column e^(s + log N); a group row among them gets its share 1/N of that column."""
    start, stop, _ = pad_rows.indices(k.shape[1])
    count = stop - start
    # The mean of equal rows is that row, and hands every pad row its own share of the gradient.
    k = torch.cat([k[:, :start], k[:, start:stop].mean(1, keepdim=True), k[:, stop:]], dim=1)
    log_count = torch.cat([log_count[:start], log_count.new_full((1,), math.log(count)), log_count[stop:]])
    shares = group_weights[:, start:stop].mean(1, keepdim=True)
    group_weights = torch.cat([group_weights[:, :start], shares, group_weights[:, stop:]], dim=1)
    return k, log_count, group_weights


class _PhraseAttention(torch.autograd.Function):
    """Softmax columns in chunks of video tokens; the backward pass computes each chunk again instead of keeping it."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, log_count: Tensor, group_weights: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(q, k, log_count, group_weights)
        ctx.heads = heads
        maps = k.new_empty(q.shape[0], group_weights.shape[0], q.shape[1])
        with torch.autocast(q.device.type, enabled=False):
            k_heads = rearrange(k, "b t (h d) -> b h t d", h=heads)
            for chunk in _chunks(q, k, heads):
                _, p = _softmax(q[:, chunk], k_heads, log_count, heads)
                maps[:, :, chunk] = einsum(p.mean(1), group_weights, "b n t, g t -> b g n")
        return maps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_maps: Tensor):
        q, k, log_count, group_weights = ctx.saved_tensors
        heads = ctx.heads
        wants_q, wants_k = ctx.needs_input_grad[:2]
        with torch.autocast(q.device.type, enabled=False):
            k_heads = rearrange(k, "b t (h d) -> b h t d", h=heads)
            scale = k_heads.shape[-1] ** -0.5
            grad_q = torch.empty_like(q) if wants_q else None
            grad_k = torch.zeros_like(k_heads) if wants_k else None
            for chunk in _chunks(q, k, heads):
                q_heads, p = _softmax(q[:, chunk], k_heads, log_count, heads)
                # dL/ds_t = p_t (G_t - sum_u p_u G_u), G = dL/dp: the same for every head because A is the mean over heads.
                grad_p = einsum(grad_maps[:, :, chunk].to(k.dtype), group_weights, "b g n, g t -> b n t")[:, None] / heads
                grad_logits = p * (grad_p - (p * grad_p).sum(-1, keepdim=True)) * scale
                if grad_q is not None:
                    grad_q[:, chunk] = rearrange(grad_logits @ k_heads, "b h n d -> b n (h d)").to(q.dtype)
                if grad_k is not None:
                    grad_k += grad_logits.transpose(-1, -2) @ q_heads
        return grad_q, None if grad_k is None else rearrange(grad_k, "b h t d -> b t (h d)"), None, None, None


def _chunks(q: Tensor, k: Tensor, heads: int) -> list[slice]:
    batch, tokens, width = q.shape
    step = max(1, CHUNK_ELEMENTS // (batch * max(heads * k.shape[1], width)))
    return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]


def _softmax(q_chunk: Tensor, k_heads: Tensor, log_count: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """P = softmax(Q K^T / sqrt d) over text rows: q in heads "b h n d" and P "b h n t"."""
    q_heads = rearrange(q_chunk, "b n (h d) -> b h n d", h=heads).to(k_heads.dtype)
    logits = q_heads @ k_heads.transpose(-1, -2)
    logits = logits.mul_(q_heads.shape[-1] ** -0.5).add_(log_count)
    return q_heads, logits.softmax(-1)
