"""Whose prompt: the positive entries of a guider, and the rows of a batched model call that belong to them."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import torch


def positive_entries(guider: Any) -> list[dict[str, Any]]:
    """The converted positive conds of this run, in the host's order; several after ConditioningCombine."""
    conds = getattr(guider, "conds", None) or {}
    if not conds.get("positive"):
        raise ValueError(
            f"{type(guider).__name__} holds no conditioning named 'positive' (it has {sorted(conds)}): "
            "guidance needs a guider that names it, such as CFGGuider or BasicGuider."
        )
    return conds["positive"]


def entries_at(entries: Sequence[dict[str, Any]], sigma: float) -> list[dict[str, Any]]:
    """Those whose timestep range (ConditioningSetTimestepRange) contains `sigma`."""
    return [e for e in entries if e.get("timestep_start", float("inf")) >= sigma >= e.get("timestep_end", 0.0)]


def has_area(entry: dict[str, Any]) -> bool:
    """Whether the model sees only a part of the picture for it."""
    return "area" in entry or ("mask" in entry and entry.get("set_area_to_bounds", False))


def shared_uuids(guider: Any) -> set[UUID]:
    """The uuids that also stand on rows of another side: the host gives a copy of an area cond there the other side's text, not a uuid."""
    return {entry["uuid"] for side, entries in guider.conds.items() if side != "positive" for entry in entries}


def rows_with_text(context: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of the rows in `mask` "b" those whose `context` "b t c" is that of one cond, `text` "1 t c" (or one for each video)."""
    found = mask.clone()
    for index, row in enumerate(mask.nonzero()[:, 0].tolist()):
        found[row] = torch.equal(context[row], text[index % len(text)].to(context))
    return found


def positive_rows(transformer_options: dict[str, Any], uuids: Collection[UUID], rows: int) -> torch.Tensor:
    """Mask "rows" of a batched call: True where the row's cond is one of `uuids`.

    Read from the uuids of the call, not from cond_or_uncond: index 0 means positive for CFGGuider only, and a call may
    hold both, either one, or (CFG 1) the positive alone, in any order. Chunk c of n covers rows c*rows/n to (c+1)*rows/n.
    """
    chunks = transformer_options["uuids"]
    return torch.tensor([uuid in uuids for uuid in chunks]).repeat_interleave(rows // len(chunks))
