"""Guidance rides on a MODEL clone: one tuple of frozen dataclasses under one key, one wrapper of each kind."""

from functools import partial
from typing import Any

from ..guidance.budget import GuidanceBudget
from .guided_sampling import WRAPPERS

KEY = "wan_conductor"


def attached(model_options: dict[str, Any]) -> tuple[Any, ...]:
    """All guidance of a MODEL (pass `model.model_options`), the budget included, in the order it was attached."""
    return model_options.get("transformer_options", {}).get(KEY, ())


def attach(model: Any, guidance: Any) -> Any:
    """A clone of `model` that also carries `guidance`; the original is left as it was.

    A tuple, because the host copies dicts and lists inside model_options but hands tuples on. A GuidanceBudget
    replaces an earlier one. A budget alone installs no wrapper.
    """
    clone = model.clone()
    present = attached(clone.model_options)
    if isinstance(guidance, GuidanceBudget):
        present = tuple(g for g in present if not isinstance(g, GuidanceBudget))
    present = (*present, guidance)
    clone.model_options.setdefault("transformer_options", {})[KEY] = present
    if any(not isinstance(g, GuidanceBudget) for g in present):
        for kind, wrapper in WRAPPERS.items():
            clone.remove_wrappers_with_key(kind, KEY)  # the host appends: two would guide twice
            clone.add_wrapper_with_key(kind, KEY, partial(wrapper, present))
    return clone


def without_guidance(model: Any) -> Any:
    """A clone of `model` that carries none."""
    clone = model.clone()
    clone.model_options.get("transformer_options", {}).pop(KEY, None)
    for kind in WRAPPERS:
        clone.remove_wrappers_with_key(kind, KEY)
    return clone
