"""Temporal Mask: words of the prompt become visible when a timeline says so."""

import logging
from typing import Any, Literal, get_args

from comfy_api.latest import io

from ..guidance.mask_sources import Timing
from ..guidance.temporal_bias import BIAS_DEPTH, BIAS_END_PERCENT, BIAS_STRENGTH, Mode, guidance_of
from ..guidance.temporal_mask import NAME, TemporalMask
from ..host.geometry import takes_start_image
from .pair import pair_inputs, pair_outputs, require_wan_pair
from .shown import PictureAndText
from .timeline_input import conditioning_input, fps_input, occurrence_input, read_occurrence, read_timeline, valid_timeline
from .timeline_output import guided_by_timeline
from .timing_socket import TEMPORAL_MASK, length_input, mask_picture, shown_latents

logger = logging.getLogger("wan_conductor")

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
            search_aliases=[
                "tempocontrol", "timeline", "temporal control", "when", "timing", "appear", "prompt schedule", "word timing",
                "attention bias",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *pair_inputs(),
                conditioning_input(),
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
                    tooltip="Weight of the magnitude term. Higher: less of the word while not active, and more while active if `anchor` is "
                    "off; raise it if the word shows all the time.",
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
                occurrence_input(),
                fps_input(),
                length_input("the video's own length, where the graph tells it, else five seconds"),
                io.Combo.Input(
                    "mode", options=list(get_args(Mode)), default="gradient", optional=True,
                    tooltip="gradient edits the latent until attention follows the timeline. bias sets the attention itself: no gradient, "
                    "hardly any cost, works at CFG 1 and with 4-step LoRAs, and less careful with shapes. both: the two together.",
                ),
                io.Float.Input(
                    "bias_strength", default=BIAS_STRENGTH, min=0.0, max=50.0, step=0.5, round=0.001, optional=True, advanced=True,
                    tooltip="How far mode bias raises a word's attention while active and lowers it while not. Higher: clearer; too high: "
                    "things lose their shape. 0: no bias.",
                ),
                io.Float.Input(
                    "bias_end", default=BIAS_END_PERCENT, min=0.0, max=1.0, step=0.05, round=0.001, optional=True, advanced=True,
                    tooltip="Where in the schedule the bias ends. Higher: later; the timing holds better, and details suffer. At least one "
                    "step is biased; 0: none.",
                ),
                io.Float.Input(
                    "bias_depth", default=BIAS_DEPTH, min=0.01, max=1.0, step=0.05, round=0.001, optional=True, advanced=True,
                    tooltip="Share of the model's blocks, from the first on, that mode bias acts in. Higher: stricter timing; lower: looks "
                    "suffer less, for later blocks draw them.",
                ),
                io.Float.Input(
                    "lambda_leakage", default=0.0, min=0.0, max=100.0, step=0.5, round=0.001, optional=True, advanced=True,
                    tooltip="Weight of the leakage term. Higher: different phrases keep to different places; raise it if two things become "
                    "one. A subject and its own lines may overlap.",
                ),
                io.Boolean.Input(
                    "anchor", default=True, optional=True, advanced=True,
                    tooltip="On: while a word is active its attention is held at the amount and in the place that each step finds, so that "
                    "things keep their shape and are not drawn twice. Off: raised without end, as in the paper; for words that hardly "
                    "show.",
                ),
                TEMPORAL_MASK.Input(
                    "timing", optional=True,
                    tooltip="Phrases whose masks come from a sound, a curve, masks or numbers: Audio to Timing and the like. They act "
                    "together with the timeline, which may be empty.",
                ),
            ],
            outputs=pair_outputs(),
        )

    @classmethod
    def validate_inputs(cls, timeline: str | None = None) -> bool | str:
        return valid_timeline(timeline, NAME)

    @classmethod
    def execute(
        cls, model: Any, conditioning: Any, timeline: str, lambda_1: float, lambda_2: float, tau_corr: float = 0.9,
        mask: Literal["soft", "binary"] = "soft", occurrence: str = "all", fps: float = 0.0, model_low_noise: Any = None,
        length: int = 0, mode: Mode = "gradient", bias_strength: float = BIAS_STRENGTH, bias_end: float = BIAS_END_PERCENT,
        bias_depth: float = BIAS_DEPTH, lambda_leakage: float = 0.0, anchor: bool = True, timing: Timing | None = None,
    ) -> io.NodeOutput:
        require_wan_pair(model, model_low_noise, NAME)
        parsed, reading = read_timeline(timeline, NAME)
        objective = TemporalMask(
            timeline=parsed, lambda_magnitude=lambda_1, lambda_entropy=lambda_2, tau_corr=tau_corr, mask=mask,
            lambda_leakage=lambda_leakage, anchor=anchor, occurrence=read_occurrence(occurrence), fps=fps, timing=timing or Timing(),
        )
        guidance = guidance_of(mode, objective, bias_strength, bias_end, bias_depth)

        def tell(found: tuple[str, ...], rate: float) -> PictureAndText:
            latents = shown_latents(length, rate)
            text = describe(objective, found, rate)
            if takes_start_image(model) and (hidden := hidden_at_first(objective, latents, rate)):
                warning = f"a start image must not show {', '.join(hidden)}: the timeline hides that at the start"
                logger.warning("%s: %s", NAME, warning)
                text += f"\n{warning}"
            return mask_picture(cls, objective.timed, latents, rate, text + reading, mask == "binary")

        return guided_by_timeline(cls, model, model_low_noise, objective, conditioning, tell, guidance)


def hidden_at_first(objective: TemporalMask, latent_frames: int, fps: float) -> list[str]:
    """The phrases whose mask is zero on the first frame; a source that does not fit a video of this length is not judged."""
    hidden = []
    for timed in objective.timed:
        try:
            mask = timed.source.mask(latent_frames, fps)
        except ValueError:
            continue
        if mask[0] == 0:
            hidden.append(timed.phrase)
    return hidden


def describe(objective: TemporalMask, found: tuple[str, ...], fps: float) -> str:
    """One line per phrase: its tokens, and when it is to be seen."""
    strengths = [f" x{timed.strength:g}" if timed.strength != 1 else "" for timed in objective.timed]
    lines = [f"{tokens}  |  {timed.source}{strength}" for tokens, timed, strength in zip(found, objective.timed, strengths)]
    return "\n".join([*lines, f"seconds at {fps:g} fps"])
