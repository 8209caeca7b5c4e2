"""Text attention with some of its logits raised or lowered, exact and small: what Event Schedule and Temporal Mask's bias mode share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .attention_maps import CHUNK_ELEMENTS

# (batch entry, its video tokens "r", their logits "h r t") -> B on the text's `biased` columns, "h r c" or what expands to it
Bias = Callable[[int, Tensor, Tensor], Tensor]
# (batch entry, its video tokens "r", their attention before and after, "h r t" each)
Observe = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class TextColumns:
    """The text rows of a call with their tail of equal rows collapsed: k, v "b h t d"; column t stands for e^log_count[t] equal rows.

    biased: the columns "c" that get a bias. All in fp32 (fp64 for fp64 input).
    """

    k: Tensor
    v: Tensor
    log_count: Tensor
    biased: Tensor

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
        return cls(k, v, log_count, torch.tensor(biased, device=k.device))


def biased_attention(
    q: Tensor, text: TextColumns, plain: Tensor, inside: Sequence[Tensor], bias: Bias, observe: Observe | None = None
) -> Tensor:
    """softmax(q k^T / sqrt d + B) v for the video tokens `inside`, and `plain`, bit for bit, for all others: "b n (h d)".

    q "b n h d": the video tokens; `plain` "b n (h d)": this attention's own output, which itself is returned if nothing is inside.
    `inside`: tokens "r" of each batch entry. Besides a copy of `plain` only chunks of CHUNK_ELEMENTS are allocated.
    """
    out = plain.clone() if any(map(len, inside)) else plain
    step = max(1, CHUNK_ELEMENTS // (q.shape[2] * max(text.k.shape[2:])))
    with torch.autocast(q.device.type, enabled=False):
        for b, tokens in enumerate(inside):
            for rows in tokens.split(step):
                q_rows = rearrange(q[b, rows].to(text.k.dtype), "r h d -> h r d")
                logits = q_rows @ text.k[b].transpose(-1, -2) * q.shape[-1] ** -0.5
                added = bias(b, rows, logits).expand(*logits.shape[:2], len(text.biased))
                logits = logits + text.log_count
                p = logits.index_add(-1, text.biased, added).softmax(-1)
                out[b].index_copy_(0, rows, rearrange(p @ text.v[b], "h r d -> r (h d)").to(out.dtype))
                if observe is not None:
                    observe(b, rows, logits.detach().softmax(-1), p.detach())
    return out
