"""What an objective is: a loss on captured attention that the shared optimiser loop lowers by editing the latent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class PhraseRef:
    """A phrase of the prompt; its token rows are looked up anew in every positive entry while sampling."""

    phrase: str
    occurrence: str | int = "all"


@dataclass(frozen=True)
class RestOfPrompt(PhraseRef):
    """All words of the prompt that belong to none of `without`, and its end: what the model reads as everything else. Never empty."""

    phrase: str = "(rest of the prompt)"
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhraseAt(PhraseRef):
    """A phrase as one share of one block's heads sees it: share `head_group` of `head_groups`, in the order of the heads."""

    block: int = 0
    head_group: int = 0
    head_groups: int = 1


def check_occurrence(name: str, occurrence: str | int) -> None:
    """Raise ValueError, naming who asks, unless `occurrence` is all, first, last, or a number from 1."""
    counted = isinstance(occurrence, int) and occurrence >= 1
    if not counted and occurrence not in ("all", "first", "last"):
        raise ValueError(f"{name}: `occurrence` = {occurrence!r}: must be all, first, last, or a number from 1")


@dataclass(frozen=True)
class ObjectiveLoss:
    """One evaluation of an objective on a batch of b latents."""

    total: Tensor  # "b", what is minimised
    terms: dict[str, Tensor]  # name -> "b", unweighted, for the report
    satisfied: Tensor  # bool "b": this sample needs no further update in this step
    traces: dict[str, Tensor] = field(default_factory=dict)  # name -> what the report draws, batch first unless it says otherwise


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass with the knobs of one loss. Budget, span and optimiser are shared (`GuidanceBudget`, `optimise_latent`)."""

    @property
    def name(self) -> str: ...

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        """The phrases whose maps `loss` wants, in this order; empty: nothing to do, install nothing."""
        ...

    @property
    def strength(self) -> float:
        """Its say among several objectives; the strongest one also scales the step size. 1 is neutral."""
        ...

    @property
    def start_percent(self) -> float | None:
        """Own start of the guided span; None: the budget's."""
        ...

    @property
    def end_percent(self) -> float | None: ...

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        """Why this objective has nothing to do on a video of this length; None: it has."""
        ...

    def loss(self, maps: Tensor, fps: float) -> ObjectiveLoss:
        """Loss of attention `maps` "b g f h w", g in the order of `phrases`, fp32 or lower, mean over heads and blocks."""
        ...


@runtime_checkable
class ChecksPrompts(Protocol):
    """Guidance, objective or patch, that cannot act on every prompt that holds its phrases: asked in its node, and when sampling starts."""

    def check_prompts(self, prompts: Sequence[Mapping[int, tuple[int, ...]]]) -> None:
        """Raise ValueError naming node, input, phrase and remedy. `prompts`: per positive prompt the text rows of those of `phrases` that
        it holds, by their place."""
        ...


@runtime_checkable
class StepwiseObjective(Objective, Protocol):
    """An objective whose loss depends on the step, or on what it saw in earlier ones."""

    def at_step(self, sigma: float, memory: dict[str, Any]) -> Objective:
        """Itself in the guided step that starts at `sigma`. `memory` is empty when the run starts and lasts as long."""
        ...


def shared_phrases(objectives: Sequence[Objective]) -> tuple[tuple[PhraseRef, ...], tuple[tuple[int, ...], ...]]:
    """The phrases that one capture must deliver for all objectives, each once, and per objective their places in it."""
    phrases = tuple(dict.fromkeys(ref for objective in objectives for ref in objective.phrases))
    places = tuple(tuple(phrases.index(ref) for ref in objective.phrases) for objective in objectives)
    return phrases, places
