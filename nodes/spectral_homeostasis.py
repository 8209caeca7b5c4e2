"""Spectral Homeostasis: temporal attention is measured and pulled toward balance while a video is sampled."""

from typing import Any, Literal

import torch
from comfy_api.latest import io

from ..guidance.homeostasis import NAME, SpectralHomeostasis
from .pair import guided_pair, pair_inputs, pair_outputs, require_wan_pair
from .shown import shown

MEASURES_ONLY = "tau 0: the video stays as it is. Guided KSampler measures it all the same: the plain run for Spectral Report."


class SpectralHomeostasisNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorSpectralHomeostasis",
            display_name=NAME,
            category="Wan Conductor",
            description="Steadies a video over time (Spectral Transport Homeostasis): measures how frames look at one another in every "
            "self-attention, sharpens it where frames are over-mixed, softens it where they are fragmented. No training, hardly any cost.",
            search_aliases=[
                "spectral transport homeostasis", "sth", "temporal consistency", "flicker", "temporal attention", "enhance a video",
                "attention temperature",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *pair_inputs(),
                io.Float.Input(
                    "tau", default=0.2, min=0.0, max=10.0, step=0.05, round=0.001,
                    tooltip="Strength. Higher: attention is pulled harder toward balance. 0.2 is the paper's, 0.1 cautious; from about 1 "
                    "the video leaves its prompt. 0 changes nothing and only measures.",
                ),
                io.Boolean.Input(
                    "per_head", default=False, advanced=True,
                    tooltip="On: each attention head is corrected by its own tension. Off, as in the paper: all heads by their mean.",
                ),
                io.Combo.Input(
                    "operator", options=["slices", "blocks"], default="slices", advanced=True,
                    tooltip="How frames are compared. slices: position by position, the cheapest. blocks: by samples of the full "
                    "attention, on which the correction acts exactly.",
                ),
                io.Int.Input(
                    "positions", default=256, min=0, max=2**20, advanced=True,
                    tooltip="Positions of the picture that `slices` samples. Higher: a steadier estimate, more memory. 0: all.",
                ),
                io.Int.Input(
                    "queries", default=8, min=0, max=2**20, advanced=True,
                    tooltip="Tokens per frame that `blocks` samples. Higher: a steadier estimate, slower. 0: all.",
                ),
                io.Float.Input(
                    "dead_zone", default=0.0, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                    tooltip="Tension below this is left alone. Higher: only stronger imbalance is corrected. 0, as in the paper: all is.",
                ),
                io.Float.Input(
                    "gamma_limit", default=0.0, min=0.0, max=10.0, step=0.05, round=0.001, advanced=True,
                    tooltip="Queries are scaled by at most this factor, and at least by 1 over it. Higher: freer; 1: nothing moves; 1.25 "
                    "is a safe one. 0, as in the paper: no limit.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.0001, advanced=True,
                    tooltip="Where in the schedule it begins. Higher: later. The strength falls over the whole schedule all the same.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.0001, advanced=True,
                    tooltip="Where in the schedule it ends. Higher: later; late steps are hardly touched anyway.",
                ),
            ],
            outputs=pair_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, tau: float, per_head: bool = False, operator: Literal["slices", "blocks"] = "slices", positions: int = 256,
        queries: int = 8, dead_zone: float = 0.0, gamma_limit: float = 0.0, start_percent: float = 0.0, end_percent: float = 1.0,
        model_low_noise: Any = None,
    ) -> io.NodeOutput:
        require_wan_pair(model, model_low_noise, NAME)
        patch = SpectralHomeostasis(tau, per_head, operator, positions, queries, dead_zone, gamma_limit, start_percent, end_percent)
        return io.NodeOutput(
            *guided_pair(model, model_low_noise, NAME, patch), ui=shown(cls, strongest(patch) if tau else MEASURES_ONLY)
        )


def strongest(patch: SpectralHomeostasis) -> str:
    """The largest factors that these knobs allow: where the tension is 1 and the schedules are at their top."""
    most = float(patch.gamma(torch.ones(1, 1), patch.tau))
    return f"tau {patch.tau:g}: queries are scaled by {1 / most:.2f} to {most:.2f} at the very most (deepest layer, first step)"
