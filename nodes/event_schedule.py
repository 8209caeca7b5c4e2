"""Event Schedule: the events of one prompt happen in order, each in its span."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from comfy_api.latest import io

from ..guidance.event_attention import Erode, HoldBack, Statistics
from ..guidance.event_subjects import NAME
from ..guidance.events import END_PERCENT, END_PERCENT_I2V, EventSchedule
from ..guidance.spans import Span
from ..host.geometry import takes_start_image
from .pair import pair_inputs, pair_outputs, require_wan_pair
from .timeline_input import conditioning_input, fps_input, occurrence_input, read_occurrence, read_timeline, valid_timeline
from .timeline_output import guided_by_timeline

TIMELINE = """cat:                 # a subject; the lines under it are what it does
  0s - 2s      watches a bowl
  2s - 3.5s    dips its paw
  3.5s - end   takes it out
"""


class EventScheduleNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorEventSchedule",
            display_name=NAME,
            category="Wan Conductor",
            description="Lets several events of one prompt happen in order, each in its span (TS-Attn): where a subject is seen, the "
            "model's attention is led to the event that is current and away from the others, in the first steps.",
            search_aliases=["ts-attn", "timeline", "events", "multi event", "story", "order", "then", "sequence", "prompt schedule"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *pair_inputs(),
                conditioning_input(),
                io.String.Input(
                    "timeline",
                    multiline=True,
                    default=TIMELINE,
                    placeholder="cat:\n  0s - 2s   watches a bowl\n  2s - end  dips its paw",
                    tooltip="A line that ends in `:` names a subject; under it, one line per event: `start - end  words of the prompt`, "
                    "with an optional strength such as x1.5 at the end (higher: that event pulls harder; 0: left out). Times in s, f "
                    "(frames) or %, `end`, or `always`. No times at all: equal shares, which is a good start.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.05, round=0.001,
                    tooltip="How hard attention is led. Higher: events keep to their spans more strictly; too high: the subject itself "
                    "changes. 1 is the paper's; 0: off.",
                ),
                io.Combo.Input(
                    "erode", options=["isolated", "full", "none"], default="isolated", advanced=True,
                    tooltip="What the motion mask of a subject loses: isolated drops lone tokens, full shaves every edge by one token, "
                    "none keeps all.",
                ),
                io.Combo.Input(
                    "blocks", options=["odd", "all"], default="odd", advanced=True,
                    tooltip="Which of the model's blocks are led: every second one as in the official code, or all: stronger, and twice "
                    "the cost.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Where in the schedule it begins. Higher: later, when the motion is mostly settled.",
                ),
                io.Float.Input(
                    "end_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Where in the schedule it ends. Higher: events hold better, and details suffer. 0: the paper's, 0.2, or 0.4 "
                    "for a model that takes a start image.",
                ),
                io.Float.Input(
                    "r_max", default=1.5, min=1.0, max=10.0, step=0.05, round=0.001, advanced=True,
                    tooltip="Reinforcement of words that the model neglects. Higher: they are raised harder; 1: all alike.",
                ),
                occurrence_input(),
                fps_input(),
                io.Float.Input(
                    "top_fraction", default=0.5, min=0.01, max=1.0, step=0.05, round=0.001, optional=True, advanced=True,
                    tooltip="How much the motion mask of a subject holds. Higher: more of the picture around it is led too. 0.5 is the "
                    "official code's; 1: every token that looks at the subject more than the mean, as in the paper.",
                ),
                io.Combo.Input(
                    "statistics", options=list(get_args(Statistics)), default="all", optional=True, advanced=True,
                    tooltip="Which text sets how far attention is led: all, padding too, as the official code; or the words of the prompt "
                    "alone: the current event is raised less, the others are held back more.",
                ),
                io.Combo.Input(
                    "hold_back", options=list(get_args(HoldBack)), default="mask", optional=True, advanced=True,
                    tooltip="Where events are held back while it is not their time: in the subject's motion mask, as in the paper; or "
                    "everywhere in the frame: stricter where a model reads events in the whole picture, and dearer.",
                ),
                io.Float.Input(
                    "raising", default=1.0, min=0.0, max=10.0, step=0.05, round=0.001, optional=True, advanced=True,
                    tooltip="How hard the current event and its subject are raised. Lower: the subject keeps its looks better; 0: the "
                    "other events are held back, and that is all. 1 is the paper's.",
                ),
            ],
            outputs=pair_outputs(),
        )

    @classmethod
    def validate_inputs(cls, timeline: str | None = None) -> bool | str:
        return valid_timeline(timeline, NAME)

    @classmethod
    def execute(
        cls, model: Any, conditioning: Any, timeline: str, strength: float = 1.0, erode: Erode = "isolated",
        blocks: Literal["odd", "all"] = "odd", start_percent: float = 0.0, end_percent: float = 0.0, r_max: float = 1.5,
        occurrence: str = "all", fps: float = 0.0, top_fraction: float = 0.5, statistics: Statistics = "all",
        hold_back: HoldBack = "mask", raising: float = 1.0, model_low_noise: Any = None,
    ) -> io.NodeOutput:
        require_wan_pair(model, model_low_noise, NAME)
        parsed, reading = read_timeline(timeline, NAME)
        schedule = EventSchedule(
            timeline=parsed, strength=strength, erode=erode, blocks=blocks, r_max=r_max,
            occurrence=read_occurrence(occurrence), start_percent=start_percent,
            end_percent=end_percent or (END_PERCENT_I2V if takes_start_image(model) else END_PERCENT), fps=fps,
            top_fraction=top_fraction, statistics=statistics, hold_back=hold_back, raising=raising,
        )
        return guided_by_timeline(
            cls, model, model_low_noise, schedule, conditioning, lambda found, rate: describe(schedule, found, rate) + reading
        )


def describe(schedule: EventSchedule, found: Sequence[str], fps: float) -> str:
    """Each subject with its tokens, under it its events with theirs and their spans, and the controlled part of the schedule."""
    lines, tokens = [], iter(found)
    for subject in schedule.subjects:
        lines.append(next(tokens))
        for event in subject.events:
            strength = f" x{event.strength:g}" if event.strength != 1 else ""
            lines.append(f"  {next(tokens)}  |  {', '.join(map(readable, event.spans))}{strength}")
    return "\n".join([*lines, f"seconds at {fps:g} fps, controlled from {schedule.start_percent:.0%} to {schedule.end_percent:.0%}"])


def readable(span: Span) -> str:
    """A third of the video as 33.3%, not with all the digits that a float has."""
    start, end = (replace(moment, value=round(moment.value, 1 if moment.unit == "%" else 3)) for moment in (span.start, span.end))
    return str(replace(span, start=start, end=end))
