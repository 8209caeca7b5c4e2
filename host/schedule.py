"""When: spans of the schedule (percent) become sigmas, and sigmas say which steps are guided. Never step counts."""

from typing import Any

import torch

# Schedulers round to a table of 1000 sigmas or end a little above 0, so steps begin up to a few percent of their length too early.
SLIVER = 0.1


def span_sigmas(model_sampling: Any, start_percent: float, end_percent: float) -> tuple[float, float]:
    """Sigmas (high, low) at which the span begins and ends; 0 is the first moment of denoising, 1 the last."""
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise ValueError(f"span of the schedule: start {start_percent} and end {end_percent} must satisfy 0 <= start <= end <= 1")
    # percent_to_sigma(0) of most families is "infinity"; a float32 sigma_max may lie a rounding error below it in the others
    high = min(float(model_sampling.percent_to_sigma(start_percent)), float(model_sampling.sigma_max))
    return high, float(model_sampling.percent_to_sigma(end_percent))


def guided_intervals(sigmas: torch.Tensor, model_sampling: Any, start_percent: float, end_percent: float) -> tuple[int, ...]:
    """Which intervals [sigma_i, sigma_i+1] of `sigmas` "i" meet the span; if none does, the one that contains the span's start.

    `sigmas` may be a slice of a schedule (KSamplerAdvanced, Wan 2.2's second expert): a slice outside the span gives none.
    A sliver is not a meeting: less than a tenth of the interval.
    """
    if start_percent == end_percent:
        return ()
    high, low = span_sigmas(model_sampling, start_percent, end_percent)
    steps = [(i, float(sigmas[i]), float(sigmas[i + 1])) for i in range(len(sigmas) - 1)]
    met = tuple(i for i, begin, end in steps if min(begin, high) - max(end, low) > SLIVER * (begin - end))
    # a schedule's first sigma may lie a float32 rounding below sigma_max
    return met or tuple(i for i, begin, end in steps if begin * (1 + 1e-5) >= high > end)


def progress_at(model_sampling: Any, sigma: float) -> float:
    """Share of the schedule that lies before `sigma`, 0..1: the inverse of `percent_to_sigma`, so without the flow shift."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(model_sampling.percent_to_sigma(middle)) > sigma else (low, middle)
    return (low + high) / 2
