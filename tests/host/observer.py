"""A patch that only looks: every attention call of a run, as it enters and as it leaves other patches."""

from dataclasses import dataclass, field

import torch
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.patch import AttentionSite, ModelCall
from wan_conductor.host.attach import attach

CAT_ONLY = (PhraseRef("cat"),)


@dataclass
class Seen:
    """One attention call."""

    call: ModelCall
    site: AttentionSite
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    result: torch.Tensor


@dataclass(frozen=True)
class Observer:
    """A patch that changes nothing and notes everything. Attached before another it sees that one's results, after it what that one got."""

    phrases: tuple[PhraseRef, ...] = CAT_ONLY
    seen: list = field(default_factory=list, compare=False, repr=False)
    name: str = "Observer"
    start_percent: float = 0.0
    end_percent: float = 1.0

    def skip_reason(self, latent_frames, fps):
        return None

    def new_record(self):
        return None

    def handler(self, call, record):
        def note(site, attention, proceed):
            result = proceed(attention)
            kept = (x.clone() for x in (attention.q, attention.k, attention.v, result))
            self.seen.append(Seen(call, site, *kept))
            return result

        return note


def observed(model, *patches, phrases=CAT_ONLY):
    """(model, calls as they leave the patches, calls as they are without them)"""
    outer, inner = Observer(phrases), Observer(phrases)
    for patch in (outer, *patches, inner):
        model = attach(model, patch)
    return model, outer.seen, inner.seen


def heads_apart(x, heads=2):
    return x.reshape(*x.shape[:2], heads, -1)
