"""Text attention with some of its logits raised or lowered, exact and small: what Event Schedule and Temporal Mask's bias mode share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from .attention_maps import CHUNK_ELEMENTS
from .patch import AttentionCall, ModelCall, Proceed

Rows = slice | Tensor  # what indexes the rows of one prompt in a batch
# (batch entry, its video tokens "r", their logits "h r t", log_count "t") -> B on its columns, "h r c" or what expands to it
Bias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
# (batch entry, its video tokens "r", their attention before and after, "h r t" each)
Observe = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class LogitBias:
    """What one method adds to the logits of one prompt's rows, and how it learns what became of them.

    columns: the text rows "c" that get it, ascending. inside: the video tokens "r" of each batch entry that do; B is 0 for all others.
    observe: given everything that is computed anew, by other methods too. finish: called after the last of it.
    """

    columns: Sequence[int]
    inside: Sequence[Tensor]
    bias: Bias
    observe: Observe | None = None
    finish: Callable[[], None] | None = None


@dataclass(frozen=True)
class TextColumns:
    """The text rows of a call with their tail of equal rows collapsed: k, v "b h t d"; column t stands for e^log_count[t] equal rows.

    All in fp32 (fp64 for fp64 input).
    """

    k: Tensor
    v: Tensor
    log_count: Tensor

    @classmethod
    def of(cls, k: Tensor, v: Tensor, biased: Sequence[int], pad_rows: slice | None = None) -> "TextColumns":
        """k, v "b t h d"; `biased`: text rows, ascending; `pad_rows`: the tail of identical rows (find_pad_rows), None: there is none."""
        rows = k.shape[1]
        if biased[0] < 0 or biased[-1] >= rows:
            raise ValueError(f"TextColumns: text rows {biased[0]}..{biased[-1]}: must lie in 0..{rows - 1}")
        if pad_rows is not None and pad_rows.indices(rows)[1] != rows:
            raise ValueError(f"TextColumns: pad_rows = {pad_rows}: must be the tail of the {rows} text rows")
        # a word among the equal rows (its prompt weight may be 0) has a bias of its own: the collapsed tail starts behind it
        first_pad = rows - 1 if pad_rows is None else min(max(pad_rows.indices(rows)[0], biased[-1] + 1), rows - 1)
        precision = torch.promote_types(k.dtype, torch.float32)
        k, v = (rearrange(x[:, : first_pad + 1].to(precision), "b t h d -> b h t d") for x in (k, v))
        log_count = k.new_zeros(first_pad + 1)
        log_count[-1] = math.log(rows - first_pad)
        return cls(k, v, log_count)


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, plain: Tensor, biases: Sequence[LogitBias], pad_rows: slice | None = None
) -> Tensor:
    """softmax(q k^T / sqrt d + sum of B) v for the video tokens inside any of `biases`; `plain`, bit for bit, for all others: "b n (h d)".

    q "b n h d": the video tokens; k, v "b t h d": text rows; `plain` "b n (h d)": this attention's own output, which itself is returned if
    nothing is inside. `pad_rows`: see TextColumns.of. Besides a copy of `plain` only chunks of CHUNK_ELEMENTS are allocated.
    """
    text = TextColumns.of(k, v, sorted({column for one in biases for column in one.columns}), pad_rows)
    columns = [torch.tensor(one.columns, device=q.device) for one in biases]
    inside = [tokens[0] if len(tokens) == 1 else torch.cat(tokens).unique() for tokens in zip(*(one.inside for one in biases), strict=True)]
    out = plain.clone() if any(map(len, inside)) else plain
    step = max(1, CHUNK_ELEMENTS // (q.shape[2] * max(text.k.shape[2:])))
    with torch.autocast(q.device.type, enabled=False):
        for b, tokens in enumerate(inside):
            for rows in tokens.split(step):
                q_rows = rearrange(q[b, rows].to(text.k.dtype), "r h d -> h r d")
                logits = q_rows @ text.k[b].transpose(-1, -2) * q.shape[-1] ** -0.5
                before = biased = logits + text.log_count
                for one, own in zip(biases, columns, strict=True):
                    added = one.bias(b, rows, logits, text.log_count).expand(*logits.shape[:2], len(own))
                    biased = biased.index_add(-1, own, added)
                p = biased.softmax(-1)
                out[b].index_copy_(0, rows, rearrange(p @ text.v[b], "h r d -> r (h d)").to(out.dtype))
                for one in biases:
                    if one.observe is not None:
                        one.observe(b, rows, before.detach().softmax(-1), p.detach())
    for one in biases:
        if one.finish is not None:
            one.finish()
    return out


def with_biases(attention: AttentionCall, proceed: Proceed, biases: Sequence[tuple[Rows, LogitBias]], call: ModelCall) -> Tensor:
    """The result of a handler that biases the text `attention` of some rows, together with all handlers inside it that do so too.

    Each computes the softmax anew, so of two in a row the outer one would undo the inner: the outermost applies what all ask for.
    """
    if attention.biases is not None:
        attention.biases.extend(biases)
        return proceed(attention)
    asked = list(biases)
    plain = led = proceed(replace(attention, biases=asked))
    of_rows: dict[tuple[int, ...], tuple[Rows, list[LogitBias]]] = {}
    for rows, bias in asked:
        of_rows.setdefault(indices(rows), (rows, []))[1].append(bias)
    video = call.grid.video_tokens
    for rows, together in of_rows.values():
        q, k, v = (
            rearrange(x, "b n (h d) -> b n h d", h=attention.heads)
            for x in (attention.q[rows, video], attention.k[rows], attention.v[rows])
        )
        own = plain[rows, video]
        biased = biased_attention(q, k, v, own, together, call.pad_rows)
        if biased is own:
            continue
        if own.shape == plain.shape:
            return biased  # a copy already, and all of this call
        led = plain.clone() if led is plain else led
        led[rows, video] = biased
    return led


def indices(rows: Rows) -> tuple[int, ...]:
    return tuple(range(rows.start, rows.stop)) if isinstance(rows, slice) else tuple(rows.tolist())
