"""What a guided run did, as plain numbers: the record behind the Timing Report and `report.json`."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .objective import PhraseRef
from .phrase_maps import PhraseMaps

Number = float | None  # None stands for a number that was not finite
# Cost of a frozen-weight pass through one block in forward-equivalents (research 4): forward 1, backward 2, recompute 1.
FORWARD_COST, BACKWARD_COST = 1.0, 2.0
SAME_MAPS = 0.95  # agreement from which on fewer blocks are said to hear the same


@dataclass(frozen=True)
class ObjectiveRecord:
    """One objective at one evaluation; lists run over the samples b of the batch."""

    name: str
    loss: list[Number]
    terms: dict[str, list[Number]]
    satisfied: list[bool]
    traces: dict[str, list]  # Temporal Mask: correlation "b g", attention "b g f", mask "g f"


@dataclass(frozen=True)
class IterationRecord:
    """One evaluation of the loop, before the update that follows it; `moving`: which samples that update moves."""

    iteration: int
    objectives: tuple[ObjectiveRecord, ...]
    moving: list[bool]


@dataclass(frozen=True)
class LoopHistory:
    """One guided step's loop: its evaluations and how it ended, per sample."""

    iterations: tuple[IterationRecord, ...]
    kept: list[int]  # per sample: after how many updates the latent was kept (0: unedited); evaluation i saw it after i updates
    delta_norm: list[Number]  # per sample: norm of the edit / norm of the latent
    stop: list[str]  # per sample: satisfied, iterations, patience, or what was not finite
    forwards: int
    backwards: int

    @property
    def updates(self) -> int:
        return sum(any(record.moving) for record in self.iterations)

    def after(self, sample: int) -> IterationRecord:
        """The evaluation of the latent that was kept, or the last one if nothing measured the last update."""
        return self.iterations[min(self.kept[sample], len(self.iterations) - 1)]


@dataclass(frozen=True)
class GuidedStep:
    """One guided step of the sampler."""

    step: int
    sigma: float
    model: str
    phrases: list[list[str]]  # per objective, in the order of its traces
    depth: float  # share of the blocks that each pass ran
    recomputes: bool
    loop: LoopHistory
    depth_agreement: list[Number] | None = None  # of the first k blocks with all in use, k from 1: `phrase_maps.depth_agreement`, mean

    @property
    def forward_equivalents(self) -> float:
        """Cost in forwards of the whole model for one row of the batch."""
        backward = BACKWARD_COST + (FORWARD_COST if self.recomputes else 0)
        return self.depth * (self.loop.forwards * FORWARD_COST + self.loop.backwards * backward)


@dataclass(frozen=True)
class SkippedStep:
    """A step that was meant to be guided and was not, or an objective that had nothing to do."""

    step: int | None
    reason: str


@dataclass
class PatchReport:
    """One patch in one run: the steps it acted in, and what it measured there, as plain numbers."""

    name: str
    model: str
    steps: list[int]
    measured: dict[str, Any] | None = None


@dataclass
class GuidanceReport:
    """Grows while sampling; `denoise_forwards` counts plain model forwards (two per step with CFG)."""

    fps: float
    latent_frames: int
    sampler: str = ""
    preset: str = ""
    budget: dict[str, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    total_steps: int = 0
    denoise_forwards: float = 0.0
    seconds: float | None = None
    guidance_seconds: float | None = None
    steps: list[GuidedStep] = field(default_factory=list)
    patches: list[PatchReport] = field(default_factory=list)
    skipped: list[SkippedStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Where attention to each phrase lay, for pictures alone: not in the JSON. None: nobody will look, measure no maps.
    maps: dict[PhraseRef, PhraseMaps] | None = field(default=None, compare=False, repr=False)

    @property
    def samples(self) -> int:
        """Videos in the batch, as far as guidance saw them."""
        return max((len(step.loop.kept) for step in self.steps), default=1)

    @property
    def guidance_forwards(self) -> float:
        """Cost of guidance in forward-equivalents."""
        return sum(step.forward_equivalents for step in self.steps)

    @property
    def enough_blocks(self) -> tuple[int, int] | None:
        """The fewest first blocks whose maps agree by SAME_MAPS with those of all in use, in every guided step; and how many are in use.

        Says whether a lower depth would hear the same; a higher one has to be tried. None: not measured, or another number in each step.
        """
        measured = [step.depth_agreement for step in self.steps if step.depth_agreement]
        if not measured or len({len(of_step) for of_step in measured}) > 1:
            return None
        least = [min(value or 0.0 for value in of_depth) for of_depth in zip(*measured, strict=True)]
        return next((count for count, value in enumerate(least, 1) if value >= SAME_MAPS), len(least)), len(least)

    @property
    def cost_factor(self) -> float | None:
        """Total over plain, in forward-equivalents."""
        return 1 + self.guidance_forwards / self.denoise_forwards if self.denoise_forwards else None

    def to_dict(self) -> dict[str, Any]:
        totals = {"guidance_forwards": self.guidance_forwards, "cost_factor": self.cost_factor}
        numbers = asdict(replace(self, maps=None))
        del numbers["maps"]
        return {**numbers, "totals": totals}

    def to_json(self, indent: int | None = None) -> str:
        """Strict JSON: numbers that are not finite become null."""
        return json.dumps(finite(self.to_dict()), indent=indent, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "GuidanceReport":
        values = json.loads(text)
        values.pop("totals", None)
        values["steps"] = [_guided_step(step) for step in values["steps"]]
        values["patches"] = [PatchReport(**patch) for patch in values.get("patches", [])]
        values["skipped"] = [SkippedStep(**skipped) for skipped in values["skipped"]]
        return cls(**values)

    def summary(self) -> str:
        """One line for the log."""
        patches = [f"{patch.name} in {len(patch.steps)} steps of {patch.model}" for patch in self.patches]
        return ", ".join([*patches, *([self._summary_of_steps()] if self.steps or not patches else [])])

    def _summary_of_steps(self) -> str:
        if not self.steps:
            reasons = "; ".join(dict.fromkeys(skipped.reason for skipped in self.skipped)) or "no step met the guided span"
            return f"no step was guided: {reasons}"
        spent = sum(step.loop.updates for step in self.steps)
        line = f"{len(self.steps)} guided steps, {spent} updates, {self.guidance_forwards:.1f} extra forward-equivalents"
        if self.cost_factor is not None:
            line += f" ({self.cost_factor:.2f}x plain)"
        before, after = (min(_correlations(step, kept), default=None) for step, kept in ((self.steps[0], False), (self.steps[-1], True)))
        if before is not None and after is not None:
            line += f", worst correlation {before:.2f} -> {after:.2f}"
        before, after = (min(_scores(step, kept), default=None) for step, kept in ((self.steps[0], False), (self.steps[-1], True)))
        if before is not None and after is not None:
            line += f", worst score {before:.2f} -> {after:.2f}"
        return line + (f", {len(self.skipped)} skipped" if self.skipped else "")


def finite(value: Any) -> Any:
    """The same nested value with None for every float that is not finite, and tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def timed_phrases(mask: list[list[Number]]) -> list[bool]:
    """Which phrases have a mask that changes after the first latent frame: only those have a correlation."""
    return [len({round(weight or 0, 6) for weight in row[1:]}) > 1 for row in mask]


def _correlations(step: GuidedStep, kept: bool) -> list[float]:
    """Correlations of the timed phrases of every sample, before the step's edit or with the latent that was kept."""
    found = []
    for sample in range(len(step.loop.kept)):
        record = step.loop.after(sample) if kept else step.loop.iterations[0]
        for objective in record.objectives:
            if "correlation" in objective.traces:
                values = zip(objective.traces["correlation"][sample], timed_phrases(objective.traces["mask"]), strict=True)
                found += [value for value, timed in values if timed and value is not None]
    return found


def _scores(step: GuidedStep, kept: bool) -> list[float]:
    """Scores of the constraints of every sample, likewise."""
    found = []
    for sample in range(len(step.loop.kept)):
        record = step.loop.after(sample) if kept else step.loop.iterations[0]
        for objective in record.objectives:
            if "score" in objective.traces:
                found += [value for value in objective.traces["score"][sample] if value is not None]
    return found


def _guided_step(values: dict[str, Any]) -> GuidedStep:
    loop = values.pop("loop")
    iterations = tuple(
        IterationRecord(record["iteration"], tuple(ObjectiveRecord(**objective) for objective in record["objectives"]), record["moving"])
        for record in loop.pop("iterations")
    )
    return GuidedStep(**values, loop=LoopHistory(iterations=iterations, **loop))
