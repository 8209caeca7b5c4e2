"""TS-Attn's equations for one cross-attention call: motion mask, event-aware rearrangement, adaptive reinforcement; section 3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional

from .attention_maps import phrase_attention
from .biased_attention import LogitBias, biased_attention
from .event_subjects import SubjectTokens, membership
from .event_trace import EventTrace, TracedShares

if TYPE_CHECKING:
    from .events import EventSchedule

Erode = Literal["none", "isolated", "full"]
Statistics = Literal["all", "words"]
HoldBack = Literal["mask", "everywhere"]
EPSILON = 1e-12  # of the official code, which the paper leaves open


def motion_mask(attention: Tensor, top_fraction: float = 0.5, erode: Erode = "isolated") -> Tensor:
    """M_s = F_K(I(A_s > tau)), motion region extraction: A_s "b s f h w" -> bool "b s f h w".

    tau: mean of the largest `top_fraction` of A_s over the tokens of all frames (code; the paper's plain mean is `top_fraction` 1), for
    each video of the batch on its own.
    """
    flat = rearrange(attention, "b s f h w -> b s (f h w)")
    largest = flat.topk(max(1, round(top_fraction * flat.shape[-1])), dim=-1).values
    return eroded(attention > largest.mean(-1)[..., None, None, None], erode)


def eroded(mask: Tensor, erode: Erode) -> Tensor:
    """F_K with K = 3, in each frame on its own: bool "b s f h w".

    isolated (code) drops tokens without any of their eight neighbours; full (paper) keeps those that have all of them, where beyond
    the edge of the frame counts as on.
    """
    if erode == "none":
        return mask
    frames = rearrange(mask, "b s f h w -> (b s f) 1 h w").float()
    if erode == "isolated":
        around = functional.avg_pool2d(frames, 3, stride=1, padding=1, divisor_override=1)
        kept = around > 1.5  # itself and one neighbour
    else:
        kept = functional.max_pool2d(1 - frames, 3, stride=1, padding=1) < 0.5
    return mask & rearrange(kept, "(b s f) 1 h w -> b s f h w", b=mask.shape[0], s=mask.shape[1])


def biased_columns(subjects: Sequence[SubjectTokens]) -> list[int]:
    """The text rows whose logits are changed: of every subject that acts, and of its events."""
    return sorted({row for subject in subjects if subject.acts for rows in (subject.rows, *subject.events) for row in rows})


@dataclass(frozen=True)
class BiasTables:
    """What one prompt asks of every block alike: the biased text rows "c", and how much of b+ and b- each has, "s f c"."""

    columns: Tensor
    raised: Tensor
    lowered: Tensor


def bias_tables(schedule: "EventSchedule", subjects: Sequence[SubjectTokens], device: torch.device) -> BiasTables:
    columns = biased_columns(subjects)
    raised, lowered = rearrangement(subjects, columns, in_order="rearrangement" not in schedule.without)
    return BiasTables(*(table.to(device) for table in (torch.tensor(columns), schedule.raising * raised, lowered)))


def rearrangement(subjects: Sequence[SubjectTokens], columns: Sequence[int], in_order: bool = True) -> tuple[Tensor, Tensor]:
    """Where B has b+ and where b-, event-aware rearrangement: how much of each on the text rows `columns`, two "s f c".

    b+ on the current events and, as in the code, on their subject; b- on every other event of that subject, once for each that holds
    the column. Events with the same words are one event with several spans, or it would suppress itself. Without `in_order` all
    events are current all the time.
    """
    frames = subjects[0].weights.shape[-1]
    raised, lowered = torch.zeros(2, len(subjects), frames, len(columns)).unbind(0)
    for s, subject in enumerate(subjects):
        if not subject.acts:
            continue
        holds_subject = membership([subject.rows], columns)[0]
        for words in dict.fromkeys(rows for rows in subject.events if rows):
            same = [event for event, rows in enumerate(subject.events) if rows == words]
            strengths = torch.tensor([subject.strengths[event] for event in same])[:, None]
            weights = subject.weights[same].cpu() if in_order else torch.ones(len(same), frames)
            holds = membership([words], columns)[0]
            current, other = (strengths * weights).amax(0), strengths.amax() * (1 - weights.amax(0))
            raised[s] = torch.maximum(raised[s], current[:, None] * torch.maximum(holds, holds_subject))
            lowered[s] += other[:, None] * holds
    return raised, lowered


def event_bias(
    logits: Tensor, log_count: Tensor, columns: Tensor, raised: Tensor, lowered: Tensor, r_min: float = 1.0, r_max: float = 1.5,
    words: int | None = None,
) -> Tensor:
    """R B on the text rows `columns` "c", in units of the logits q k^T / sqrt d: "h r c".

    logits "h r t" of rows r in the mask; column t stands for e^log_count[t] equal ones. raised and lowered "r c" say how much of b+ and b-.
        b+ = max - mean, b- = min - mean        of the row's logits over all text columns, padding included, or the first `words` of them
        r+ = r_min + (1 - p') (r_max - r_min), r- = r_min + p' (r_max - r_min), p' = (p - min p) / (max p - min p + eps)
    As in the paper: q and k are those of the attention itself (the code drops their norm), r- differs from r+ (the code takes r+).
    """
    counted, count = logits[..., :words], log_count[:words].exp()
    high, low = counted.amax(-1, keepdim=True), counted.amin(-1, keepdim=True)
    mean = (counted * count).sum(-1, keepdim=True) / count.sum()
    p, p_min = (logits[..., columns] - high).exp(), (low - high).exp()  # over max p, which p' does not see
    p = (p - p_min) / (1 - p_min + EPSILON)
    r_plus, r_minus = r_min + (1 - p) * (r_max - r_min), r_min + p * (r_max - r_min)
    return raised * r_plus * (high - mean) + lowered * r_minus * (low - mean)


def rearranged_attention(
    schedule: "EventSchedule", q: Tensor, k: Tensor, v: Tensor, plain: Tensor, grid: tuple[int, int, int],
    subjects: Sequence[SubjectTokens], pad_rows: slice | None = None, trace: EventTrace | None = None, frames: Sequence[int] | None = None,
    tables: BiasTables | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt d + sum_s M_s R_s B_s) v: `plain` with the rows inside the motion masks computed anew, "b n (h d)".

    q "b n h d": the video tokens, "(f h w)" = `grid`; k, v "b t h d": the text rows; `plain` "b n (h d)": this attention's own output. All
    batch entries share one prompt (`subjects` from EventSchedule.bind). `pad_rows`: the tail of identical text rows (find_pad_rows),
    computed as one column, which is exact. Rows outside every mask keep their bits; if all are outside, `plain` itself is returned.
    Memory: see biased_attention. `trace`, `frames`, `tables`: see schedule_bias.
    """
    bias = schedule_bias(schedule, q, k, grid, subjects, pad_rows, trace, frames, tables)
    return plain if bias is None else biased_attention(q, k, v, plain, [bias], pad_rows)


def schedule_bias(
    schedule: "EventSchedule", q: Tensor, k: Tensor, grid: tuple[int, int, int], subjects: Sequence[SubjectTokens],
    pad_rows: slice | None = None, trace: EventTrace | None = None, frames: Sequence[int] | None = None, tables: BiasTables | None = None,
) -> LogitBias | None:
    """sum_s M_s R_s B_s of one call, for `biased_attention`; None where no subject acts. `trace`, `frames`: see EventTrace.add.

    `tables`: `bias_tables` of these subjects, where several blocks share them.
    """
    columns = biased_columns(subjects)
    if not columns:
        return None
    precision = torch.promote_types(k.dtype, torch.float32)
    masks = motion_masks(schedule, q, k, grid, subjects, pad_rows)
    tables = tables or bias_tables(schedule, subjects, q.device)
    raised, lowered = tables.raised.to(q.device, precision), tables.lowered.to(q.device, precision)
    r_min, r_max = (1.0, 1.0) if "reinforcement" in schedule.without else (schedule.r_min, schedule.r_max)
    words = (pad_rows.start or None) if schedule.statistics == "words" and pad_rows is not None else None
    shares = TracedShares(subjects, masks, k.shape[1], precision) if trace is not None else None

    def place(b: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latent frame "r" of video tokens, and which subjects' masks they lie in, "s r"."""
        return rows // (grid[1] * grid[2]), masks[b].flatten(1)[:, rows].to(precision)

    everywhere = schedule.hold_back == "everywhere"

    def bias(b: int, rows: Tensor, logits: Tensor, log_count: Tensor) -> Tensor:
        frame, in_mask = place(b, rows)
        up = einsum(in_mask, raised[:, frame], "s r, s r c -> r c")
        down = lowered[:, frame].sum(0) if everywhere else einsum(in_mask, lowered[:, frame], "s r, s r c -> r c")
        return event_bias(logits, log_count, tables.columns, up, down, r_min, r_max, words) * schedule.strength

    def observe(b: int, rows: Tensor, before: Tensor, after: Tensor) -> None:
        if shares is not None:
            shares.add(b, *place(b, rows), before, after)

    def finish() -> None:
        if trace is not None and shares is not None:
            trace.add(masks, shares.attention, shares.tokens, [subject.acts for subject in subjects], frames)

    reached = masks.any(1)
    if everywhere:
        reached = reached | (lowered > 0).any(0).any(-1)[:, None, None]
    inside = [of_row.nonzero()[:, 0] for of_row in reached.flatten(1)]
    return LogitBias(columns, inside, bias, *((observe, finish) if trace is not None else ()))


def motion_masks(
    schedule: "EventSchedule", q: Tensor, k: Tensor, grid: tuple[int, int, int], subjects: Sequence[SubjectTokens], pad_rows: slice | None
) -> Tensor:
    """M_s from this call alone, bool "b s f h w"; empty where a subject does not act. A_s: mean probability over heads and rows (code)."""
    f, h, w = grid
    if q.shape[1] != f * h * w or any(subject.weights.shape[-1] != f for subject in subjects):
        spans = [subject.weights.shape[-1] for subject in subjects]
        raise ValueError(f"rearranged_attention: grid = {grid}: q has {q.shape[1]} tokens, the schedule {spans} latent frames")
    masks = q.new_zeros(q.shape[0], len(subjects), f, h, w, dtype=torch.bool)
    acting = [s for s, subject in enumerate(subjects) if subject.acts]
    if "motion mask" in schedule.without:
        masks[:, acting] = True
        return masks
    flat_q, flat_k = (rearrange(x, "b n h d -> b n (h d)") for x in (q, k))
    attention = phrase_attention(flat_q, flat_k, q.shape[2], [subjects[s].rows for s in acting], pad_rows)
    attention = rearrange(attention, "b s (f h w) -> b s f h w", f=f, h=h)
    for s, mask in zip(acting, motion_mask(attention, schedule.top_fraction, schedule.erode).unbind(1), strict=True):
        masks[:, s] = mask
    return masks
