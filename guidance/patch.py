"""What a patch is: guidance that acts inside the forward pass, and what it is told about the call it acts in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from .objective import PhraseRef

if TYPE_CHECKING:
    from .biased_attention import LogitBias, Rows


@dataclass(frozen=True)
class VideoGrid:
    """The video tokens of one model call: row-major "(f h w)", `token_offset` after the first token of the sequence."""

    frames: int
    height: int
    width: int
    token_offset: int = 0

    @property
    def token_count(self) -> int:
        return self.frames * self.height * self.width

    @property
    def video_tokens(self) -> slice:
        """Where they lie in the token sequence; reference and pose tokens come before or after."""
        return slice(self.token_offset, self.token_offset + self.token_count)


@dataclass(frozen=True)
class AttentionSite:
    """Which attention call: index in `blocks`, or in `vace_blocks` if `vace` (the host gives both the same block_index)."""

    block: int
    kind: Literal["self", "text", "image"]
    vace: bool = False


@dataclass(frozen=True)
class AttentionCall:
    """What the block handed over: q "b n (h d)", k and v "b t (h d)"; self-attention's q and k are past RoPE.

    `transformer_options` and `rest` are the host's, for host/ alone. `biases`: what handlers add to its logits (`with_biases`).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    transformer_options: dict[str, Any] = field(default_factory=dict, repr=False)
    rest: dict[str, Any] = field(default_factory=dict, repr=False)
    biases: "list[tuple[Rows, LogitBias]] | None" = field(default=None, repr=False)


Proceed = Callable[[AttentionCall], Tensor]
# Sees an attention call and passes it on, changed or not; returns the result "b n (h d)", or None: run as if it were not there
Handler = Callable[[AttentionSite, AttentionCall, Proceed], Tensor | None]


@dataclass(frozen=True)
class PromptRows:
    """One positive prompt in a model call."""

    rows: Tensor  # bool "b": the rows of the batch that are its
    text_rows: dict[int, tuple[int, ...]]  # place in `Patch.phrases` -> its rows of the text; a phrase that this prompt lacks is missing
    pad_rows: slice | None  # its own padding, which begins before the call's where another prompt of the batch is longer


@dataclass(frozen=True)
class ModelCall:
    """One call of the diffusion model, as a patch sees it."""

    grid: VideoGrid
    frames: tuple[int, ...]  # the latent frames of the video in this call: all, or those of a context window
    total_frames: int  # latent frames of the whole video
    sigma: float
    progress: float  # of the schedule, 0 (noise) .. 1 (clean), as the host counts percent: without the flow shift
    blocks: int  # main blocks of the model
    prompts: tuple[PromptRows, ...]  # in the order of the positive entries; none where the call holds only negative rows
    pad_rows: slice | None  # the text rows that are padding and equal in every row of the batch
    fps: float  # the model's
    videos: int = 1  # of the batch: row r is one of video r % videos


@runtime_checkable
class Patch(Protocol):
    """A frozen dataclass with the knobs of one method. What it remembers within a run is in the record that `new_record` makes."""

    @property
    def name(self) -> str: ...

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        """The phrases whose text rows it wants; every one must be in one of the positive prompts. May be empty."""
        ...

    @property
    def start_percent(self) -> float:
        """Where its part of the schedule begins, 0..1."""
        ...

    @property
    def end_percent(self) -> float: ...

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        """Why it has nothing to do in a video of `latent_frames` at `fps`; None if it has. May raise ValueError."""
        ...

    def new_record(self) -> Any:
        """What a run fills while it measures: an object with `to_dict()`, or None where there is nothing to measure."""
        ...

    def handler(self, call: ModelCall, record: Any) -> Handler | None:
        """Asked once in every model call of its span. None: nothing is installed. `record` is None unless a report is wanted."""
        ...
