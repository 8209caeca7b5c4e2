"""Temporal Mask: words of the prompt become visible when a timeline says so."""

import logging
from typing import Any, Literal

from comfy_api.latest import io

from ..guidance.latent_time import frames_per_second
from ..guidance.spans import TimelineError
from ..guidance.temporal_mask import TemporalMask
from ..guidance.timeline import normalise, parse_timeline
from ..host.attach import attach
from ..host.geometry import require_wan
from ..host.tokens import check_conditioning
from .pair import low_noise_or_blocker, pair_inputs, pair_outputs
from .shown import shown

logger = logging.getLogger("wan_conductor")

NAME = "Temporal Mask"
TIMELINE = """cat:                 # always there, because this header names it
  0s - 2s    watches
  2s - end   jumps x1.5
"""


class TemporalMaskNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorTemporalMask",
            display_name=NAME,
            category="Wan Conductor",
            description="Makes words of the prompt visible at the times of a timeline (TempoControl): it measures the model's attention "
            "to them "
            "and edits the latent in the first steps until that rises and falls as written.",
            search_aliases=["tempocontrol", "timeline", "temporal control", "when", "timing", "appear", "prompt schedule", "word timing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *pair_inputs(),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The positive prompt from Conductor Text Encode. Every phrase of the timeline is looked up in it before "
                    "anything runs.",
                ),
                io.String.Input(
                    "timeline",
                    multiline=True,
                    default=TIMELINE,
                    placeholder="2s - end   jumps",
                    tooltip="One line per phrase: `start - end  words of the prompt`, with an optional strength such as x1.5 at the end "
                    "(higher: "
                    "more weight; 0: off). Times in s, f (frames) or %, `end`, or `always`. Lines without times share the video equally. "
                    "A line that ends in `:` names something that is there all the time.",
                ),
                io.Float.Input(
                    "lambda_1", display_name="lambda_1 (magnitude)", default=0.3, min=0.0, max=100.0, step=0.05, round=0.001,
                    tooltip="Weight of the magnitude term. Higher: more of the word while active and less while not; raise it if the "
                    "word shows all the time.",
                ),
                io.Float.Input(
                    "lambda_2", display_name="lambda_2 (entropy)", default=10.0, min=0.0, max=100.0, step=0.5, round=0.001,
                    tooltip="Weight of the entropy term. Higher: attention keeps to one clear place while active; raise it if the scene "
                    "drifts.",
                ),
                io.Float.Input(
                    "tau_corr", default=0.9, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="A guided step ends as soon as attention and mask correlate this well. Higher: closer to the timeline, slower.",
                ),
                io.Combo.Input(
                    "mask", options=["soft", "binary"], default="soft", advanced=True,
                    tooltip="soft gives a latent frame the share of it that a span covers; binary rounds that to 0 or 1, for sharper "
                    "starts and ends.",
                ),
                io.String.Input(
                    "occurrence", default="all", advanced=True,
                    tooltip="Which occurrence of a repeated phrase in the prompt: all, first, last, or its number. A higher number: "
                    "further on.",
                ),
                io.Float.Input(
                    "fps", default=0.0, min=0.0, max=240.0, step=1.0, round=0.001, advanced=True,
                    tooltip="Frames per second for times in s. Higher: the same second lies at a later frame. 0: the model's own (16, "
                    "or 24 for the 5B).",
                ),
            ],
            outputs=pair_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, conditioning: Any, timeline: str, lambda_1: float, lambda_2: float, tau_corr: float = 0.9,
        mask: Literal["soft", "binary"] = "soft", occurrence: str = "all", fps: float = 0.0, model_low_noise: Any = None,
    ) -> io.NodeOutput:
        require_wan(model, NAME)
        if model_low_noise is not None:
            require_wan(model_low_noise, NAME, "model_low_noise")
        which = occurrence.strip().casefold() or "all"
        try:
            parsed = parse_timeline(plain := normalise(timeline, lists=True))
        except TimelineError as error:
            raise error.named(NAME) from error
        objective = TemporalMask(
            timeline=parsed, lambda_magnitude=lambda_1, lambda_entropy=lambda_2, tau_corr=tau_corr, mask=mask,
            occurrence=int(which) if which.isdecimal() else which, fps=fps,
        )
        if not objective.phrases:
            text = "The timeline is empty or every strength is 0: the model passes through unchanged."
            return io.NodeOutput(model, low_noise_or_blocker(model_low_noise, NAME), ui=shown(cls, text))
        found = check_conditioning(conditioning, objective.phrases, NAME)
        text = describe(objective, found, frames_per_second(model.model.latent_format.latent_channels, fps))
        if takes_start_image(model) and (hidden := hidden_at_first(objective)):
            warning = f"a start image must not show {', '.join(hidden)}: the timeline hides that at the start"
            logger.warning("%s: %s", NAME, warning)
            text += f"\n{warning}"
        if plain.strip() != timeline.replace("\r\n", "\n").strip():
            text += f"\nread as:\n{plain}"
        if model_low_noise is not None:
            model_low_noise = attach(model_low_noise, objective)
        return io.NodeOutput(attach(model, objective), low_noise_or_blocker(model_low_noise, NAME), ui=shown(cls, text))


def takes_start_image(model: Any) -> bool:
    """I2V models of Wan 2.1 and 2.2: their input has more channels than the latent."""
    return model.model.diffusion_model.in_dim > model.model.latent_format.latent_channels


def hidden_at_first(objective: TemporalMask) -> list[str]:
    """The phrases whose mask is zero on the first frame, in a video of any length."""
    return [line.body for line in objective.lines if all(span.start.value > 0 for span in line.spans)]


def describe(objective: TemporalMask, found: tuple[str, ...], fps: float) -> str:
    """One line per phrase: its tokens, and when it is to be seen."""
    times = [", ".join("always" if span.always else str(span) for span in line.spans) for line in objective.lines]
    strengths = [f" x{line.strength:g}" if line.strength != 1 else "" for line in objective.lines]
    lines = [f"{tokens}  |  {time}{strength}" for tokens, time, strength in zip(found, times, strengths)]
    return "\n".join([*lines, f"seconds at {fps:g} fps"])
