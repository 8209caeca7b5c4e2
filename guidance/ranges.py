"""The checks of knobs that all methods have. Each raises ValueError naming the owner, the field, its value and what it may be."""

from collections.abc import Iterable


def check_range(owner: str, field: str, value: float, low: float, high: float) -> None:
    """NaN is outside every range."""
    if not low <= value <= high:
        raise ValueError(f"{owner}: `{field}` = {value}: must lie in {low:g}..{high:g}")


def check_choice(owner: str, field: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{owner}: `{field}` = {value!r}: must be one of {', '.join(choices)}")


def check_percents(owner: str, start: float | None, end: float | None, prefix: str = "") -> None:
    """A part of the schedule: start_percent and end_percent in 0..1, in this order. None: left to the budget."""
    for field, value in (("start_percent", start), ("end_percent", end)):
        if value is not None:
            check_range(owner, prefix + field, value, 0, 1)
    if start is not None and end is not None and end < start:
        raise ValueError(f"{owner}: `{prefix}end_percent` = {end}: must not lie before `{prefix}start_percent` = {start}")


def check_fps(owner: str, fps: float) -> None:
    """Frames per second in which a timeline counts seconds; 0: the model's."""
    check_range(owner, "fps", fps, 0, 1000)
