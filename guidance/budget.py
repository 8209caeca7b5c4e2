"""How much guidance a run may spend: one budget, shared by all its objectives."""

from dataclasses import dataclass
from typing import Literal

from .ranges import check_choice, check_percents, check_range

MemoryMode = Literal["fast", "balanced", "low"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("fast", "balanced", "low")


@dataclass(frozen=True)
class GuidanceBudget:
    """Span, iterations and depth of the guided steps (TempoControl section 4: k steps of l iterations with AdamW).

    start_percent, end_percent: the guided span of the schedule. Early steps decide what appears when; later ones only details.
    iterations: l, updates of the latent per guided step at most. More: closer to the mask, slower.
    step_size: AdamW's learning rate; an element of the latent moves by about this much per iteration. Too high: blotches, drifting colours.
    growth: factor on the step size after each update of a guided step. Above 1 it starts with care and still reaches far in few updates,
        on models whose attention moves less.
    depth: share of the model's blocks, from the first on, that a gradient pass runs and takes maps from. Lower: faster, but it hears less.
    memory_mode: fast keeps activations, balanced computes blocks again in the backward pass, low also keeps block inputs off the GPU.
    patience: a sample stops after this many evaluations without a lower loss; 0: never for that reason.
    check_last: evaluate once more after the last update (a forward without gradient), so that a bad last update is taken back.
    """

    start_percent: float = 0.0
    end_percent: float = 0.1
    iterations: int = 10
    step_size: float = 5e-4
    growth: float = 1.0
    depth: float = 1.0
    memory_mode: MemoryMode = "balanced"
    patience: int = 0
    check_last: bool = True

    def __post_init__(self) -> None:
        check_percents("Guidance budget", self.start_percent, self.end_percent)
        check_range("Guidance budget", "iterations", self.iterations, 0, 200)
        check_range("Guidance budget", "step_size", self.step_size, 0, 10)
        check_range("Guidance budget", "growth", self.growth, 1, 10)
        check_range("Guidance budget", "depth", self.depth, 0.01, 1)
        check_range("Guidance budget", "patience", self.patience, 0, 200)
        check_choice("Guidance budget", "memory_mode", self.memory_mode, MEMORY_MODES)

    @property
    def recomputes(self) -> bool:
        """Whether a backward pass runs the blocks' forward again."""
        return self.memory_mode != "fast"


# The one place for these numbers. `paper`: k = 5 of 50 steps, l = 10, 5e-4 (1e-3 for two objects), all blocks, no patience.
# `fast`: its first update goes as far as all ten of the paper's, later ones grow; a step ends as soon as the attention follows, so that
# models which need less get less. On the playground the paper's sizes hardly move the attention, and these do.
PRESETS: dict[str, GuidanceBudget] = {
    "paper": GuidanceBudget(end_percent=0.10, iterations=10, step_size=5e-4, depth=1.0, patience=0, check_last=False),
    "fast": GuidanceBudget(end_percent=0.30, iterations=4, step_size=5e-3, growth=2.5, depth=0.67, patience=2, check_last=True),
}
DEFAULT_PRESET = "fast"


def preset_name(budget: GuidanceBudget) -> str:
    """The preset whose numbers these are, or "custom"."""
    return next((name for name, preset in PRESETS.items() if preset == budget), "custom")
