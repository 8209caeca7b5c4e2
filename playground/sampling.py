"""Videos of the playground through the host's own sampling, for evaluation."""

from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ..guidance.blend import MultiPromptBlend
from ..guidance.budget import GuidanceBudget
from ..guidance.objective import Objective
from ..guidance.patch import Patch
from ..guidance.report import GuidanceReport
from ..host.attach import attach
from ..host.stages import Settings, Stage, sample_stages
from ..host.tokens import encode_with_tokens
from . import codec, network, sockets, world

Guidance = Objective | Patch | MultiPromptBlend
CFG = 3.5  # above it shapes come out worse, below it objects are missing more often
LATENT_SHAPE = (16, world.LATENT_FRAMES, world.CANVAS // 2, world.CANVAS // 2)


@dataclass
class Playground:
    """Model, text encoder and codec, loaded once, with the sampling settings of the evaluation."""

    steps: int = 20
    cfg: float = CFG
    model: Any = field(default_factory=sockets.load_model)
    clip: Any = field(default_factory=sockets.load_clip)
    matrices: dict[str, Tensor] = field(default_factory=lambda: network.load_weights("codec"))

    def __post_init__(self) -> None:
        comfy.utils.PROGRESS_BAR_ENABLED = False
        self.negative = self.encode([""])

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> Any:
        """One CONDITIONING whose batch rows are the captions'; for one caption with its tokens attached."""
        if len(captions) == 1:
            return encode_with_tokens(self.clip, captions[0])
        rows = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(c))[0][0] for c in captions]
        return [[torch.cat(rows), {}]]

    @torch.inference_mode()
    def sample(
        self, positive: Any, batch: int, seed: int, objective: Guidance | tuple[Guidance, ...] | None = None,
        budget: GuidanceBudget | None = None, latent: dict[str, Any] | None = None,
    ) -> tuple[Tensor, GuidanceReport]:
        """Canvas videos "b f c h w" of `batch` noises, plain or guided, and the report of the run; `latent` in place of an empty one."""
        model = self.model
        for one in objective if isinstance(objective, tuple) else () if objective is None else (objective,):
            model = attach(model, one)
        settings = Settings(seed, self.steps, "euler", "simple", positive, self.negative, budget)
        stage = Stage(model, "playground", self.cfg, 0, self.steps, True, True)
        sampled, report = sample_stages([stage], latent or {"samples": torch.zeros(batch, *LATENT_SHAPE)}, settings)
        model_space = self.model.model.process_latent_in(sampled["samples"])
        return codec.canvas_of_latent(model_space.float().cpu(), self.matrices), report
