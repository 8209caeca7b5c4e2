"""Spectral Homeostasis: how frames pass their state on in temporal attention, measured and pulled toward balance by the query temperature.

Spectral Transport Homeostasis (Tang et al., "Temporal State Transport in Video Generation"). Its public code is another method (it scales
the output of attention by an unsigned factor); what is followed here is the paper, section 3 and appendix K. From the code comes only what
"grouping by frames" means for full 3D attention: one F x F attention per head and spatial position.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from .frame_operators import Observe, block_operators, slice_operators, spectral_tension
from .objective import PhraseRef
from .patch import AttentionCall, AttentionSite, Handler, ModelCall, Proceed
from .ranges import check_percents, check_range
from .spectral_record import BatchRecord

NAME = "Spectral Homeostasis"
# |T| <= 1, so below this tau_eff |gamma - 1| < 2^-9: less than half a unit in the last place of every bfloat16 query.
NEGLIGIBLE = 2.0**-9


def layer_weight(layer: int, layers: int) -> float:
    """w_l = (1 - cos(pi l / (L - 1))) / 2 for l = 0 .. L - 1, eq 7: 0 in the first layer, 1 in the deepest."""
    return 0.5 - 0.5 * math.cos(math.pi * layer / (layers - 1)) if layers > 1 else 1.0


def step_weight(progress: float) -> float:
    """w_t = (1 + cos(pi progress)) / 2, eq 7: 1 at pure noise (progress 0), 0 at the end of the whole schedule (progress 1).

    The paper's step t of N is progress t / (N - 1); with N = 50, of which its record holds the first 16 (the high-noise expert), this is
    what gives its mean of 0.0924, 47.5 % of cells above 0.1 and maximum of 0.2. By progress and not by count, so that split samplers,
    two experts and few-step schedules weigh a noise level alike.
    """
    return 0.5 + 0.5 * math.cos(math.pi * min(max(progress, 0.0), 1.0))


def scaled_queries(q: Tensor, gamma: Tensor, heads: int) -> Tensor:
    """Q' = gamma Q, eq 6: q "b n (h d)", gamma "b h" -> "b n (h d)" in the dtype of q.

    As q + q (gamma - 1): in half precision gamma itself would be rounded to steps of 2^-8, as coarse as the corrections are.
    """
    apart = rearrange(q, "b n (h d) -> b n h d", h=heads)
    return rearrange(torch.addcmul(apart, apart, (gamma - 1).to(q.dtype)[:, None, :, None]), "b n h d -> b n (h d)")


@dataclass(frozen=True)
class SpectralHomeostasis:
    """gamma = exp(tau w_l w_t T), Q' = gamma Q (eq 5 to 7): over-mixed attention is sharpened, fragmented attention softened.

    tau: strength. 0.2 is the paper's, 0.1 is cautious; from about 1 the video leaves its prompt. 0 only measures.
    per_head: each head is corrected by its own tension. Off, as in the paper: one gamma per call and CFG row, from the mean over heads.
    operator: slices compares frames position by position (what the paper's figures most likely rest on); blocks samples the full attention.
    positions: sampled positions of `slices`; 0: all. More: a steadier estimate, more memory.
    queries: sampled tokens per frame of `blocks`; 0: all. More: steadier, slower.
    dead_zone: |T| below this is left alone. 0 (paper): nothing is.
    gamma_limit: gamma stays within 1/limit .. limit. 0 (paper): no limit. 1.25 is a safe one.
    start_percent, end_percent: the span of the schedule in which it acts; w_t runs over the whole schedule all the same.
    """

    tau: float = 0.2
    per_head: bool = False
    operator: Literal["slices", "blocks"] = "slices"
    positions: int = 256
    queries: int = 8
    dead_zone: float = 0.0
    gamma_limit: float = 0.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        check_range(self.name, "tau", self.tau, 0, 10)
        check_range(self.name, "positions", self.positions, 0, 2**20)
        check_range(self.name, "queries", self.queries, 0, 2**20)
        check_range(self.name, "dead_zone", self.dead_zone, 0, 1)
        if self.gamma_limit != 0:
            check_range(self.name, "gamma_limit", self.gamma_limit, 1, 10)
        check_percents(self.name, self.start_percent, self.end_percent)
        if self.operator not in ("slices", "blocks"):
            raise ValueError(f"{self.name}: `operator` = {self.operator!r}: must be slices or blocks")

    @property
    def name(self) -> str:
        return NAME

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        return ()

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        if latent_frames < 2:
            return f"{self.name}: the latent has one frame, and one frame passes nothing on"
        return None

    def new_record(self) -> BatchRecord:
        return BatchRecord()

    def handler(self, call: ModelCall, record: BatchRecord | None) -> Handler | None:
        """Steadies the self-attention of the main blocks. Nothing is installed at tau 0 without a record, or where there is one frame."""
        if call.grid.frames < 2 or (self.tau == 0 and record is None):
            return None

        def steadier(site: AttentionSite, attention: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.kind != "self" or site.vace:
                return None
            tau_eff = self.tau_eff(site.block, call.blocks, call.progress)
            observe = None if record is None else record.observe(site.block, call.blocks, call.sigma, tau_eff, call.videos)
            q = self.regulate(
                attention.q, attention.k, attention.heads, call.grid.frames, tau_eff, call.grid.video_tokens, observe
            )
            return None if q is attention.q else proceed(replace(attention, q=q))

        return steadier

    def tau_eff(self, layer: int, layers: int, progress: float) -> float:
        """tau_eff = tau w_l w_t, eq 7. `layer` counts the main blocks from 0; `progress` of the whole schedule, 0 (noise) .. 1 (clean)."""
        return self.tau * layer_weight(layer, layers) * step_weight(progress)

    def operators(self, q: Tensor, k: Tensor, heads: int, frames: int) -> Tensor:
        """The frame-level operators of one call: q, k "b (f s) (h d)", video tokens only -> "b h p f g"."""
        if self.operator == "blocks":
            return block_operators(q, k, heads, frames, self.queries)
        return slice_operators(q, k, heads, frames, self.positions)

    def gamma(self, tension: Tensor, tau_eff: float) -> Tensor:
        """eq 5 per batch row, so CFG rows stay apart: tension "b h" -> "b h", equal in all heads of a row unless per_head (appendix K)."""
        if not self.per_head:
            tension = repeat(tension.mean(1), "b -> b h", h=tension.shape[1])
        gamma = torch.exp(tau_eff * torch.where(tension.abs() < self.dead_zone, 0.0, tension))
        return gamma.clamp(1 / self.gamma_limit, self.gamma_limit) if self.gamma_limit else gamma

    def regulate(
        self, q: Tensor, k: Tensor, heads: int, frames: int, tau_eff: float, video_tokens: slice = slice(None),
        observe: Observe | None = None,
    ) -> Tensor:
        """Q' of one self-attention call: q, k "b n (h d)" past RoPE -> "b n (h d)"; q itself where tau_eff is negligible.

        Only `video_tokens` are measured and scaled; reference tokens keep their queries. No gradient flows through gamma. `observe`
        also sees the calls that are left alone; without it nothing is measured there, and no operator twice. A corrected call costs
        `operators`, F x F products and eigenvalues per head, and one pass over q: reads and writes 4 n h d bytes in half precision.
        """
        acts = tau_eff >= NEGLIGIBLE
        if not acts and observe is None:
            return q
        video_q, video_k = q[:, video_tokens], k[:, video_tokens]
        with torch.no_grad():
            before = self.operators(video_q, video_k, heads, frames)
            gamma = self.gamma(spectral_tension(before), tau_eff) if acts else before.new_ones(before.shape[:2])
        scaled = scaled_queries(video_q, gamma, heads) if acts else video_q
        if observe is not None:
            with torch.no_grad():
                observe(before, self.operators(scaled, video_k, heads, frames) if acts else before, gamma)
        if not acts:
            return q
        if scaled.shape == q.shape:
            return scaled
        regulated = q.clone()
        regulated[:, video_tokens] = scaled
        return regulated
