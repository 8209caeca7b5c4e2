"""Composition Guide: things of the prompt stand and move as relations say."""

from typing import Any

from comfy_api.latest import io

from ..guidance.classifier import Classifier
from ..guidance.composition import NAME, Composition
from ..guidance.relations import RELATIONS
from ..host.map_features import model_identity
from .classifier_socket import CLASSIFIER
from .pair import pair_inputs, pair_outputs, require_wan_pair
from .timeline_input import conditioning_input, fps_input, occurrence_input, read_occurrence, read_timeline, valid_timeline
from .timeline_output import guided_by_timeline

TIMELINE = """always        cat | left of | dog
2s - end      cat | toward | dog   # each line has its own time
"""


class CompositionGuideNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorCompositionGuide",
            display_name=NAME,
            category="Wan Conductor",
            description="Makes relations between things of the prompt hold (CVG): it measures where the model's attention to them lies and "
            "edits the latent in the first steps until they stand and move as written. No training needed; a classifier teaches it more.",
            search_aliases=["cvg", "composition", "relation", "spatial", "left of", "above", "between", "layout", "position", "direction"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *pair_inputs(),
                conditioning_input(),
                io.String.Input(
                    "timeline",
                    multiline=True,
                    default=TIMELINE,
                    placeholder="always   cat | left of | dog",
                    tooltip="One line per relation: `start - end  thing | relation | thing`, with an optional strength such as x1.5 at the "
                    "end (higher: more weight; 0: off). Things are words of the prompt. Times in s, f (frames) or %, `end`, or `always`; "
                    "lines without times share the video equally. Relations: " + ", ".join(relation.name for relation in RELATIONS) + ".",
                ),
                io.Float.Input(
                    "margin", default=0.15, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="How clearly a relation must hold, in halves of the frame's shorter side. Higher: further left, a longer way.",
                ),
                io.Float.Input(
                    "lambda_presence", default=0.1, min=0.0, max=100.0, step=0.05, round=0.001,
                    tooltip="How much everything named is to be seen at all. Higher: fewer things are missing; too high: places suffer.",
                ),
                io.Float.Input(
                    "tau", default=0.9, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="A guided step ends as soon as every relation scores this. Higher: stricter, slower.",
                ),
                occurrence_input(),
                fps_input(),
                CLASSIFIER.Input(
                    "classifier", optional=True,
                    tooltip="Relations taught with examples, from Load Composition Classifier. What it knows is judged by it in place of "
                    "geometry, and its own labels can be written between the bars.",
                ),
            ],
            outputs=pair_outputs(),
        )

    @classmethod
    def validate_inputs(cls, timeline: str | None = None) -> bool | str:
        return valid_timeline(timeline, NAME, lists=False)

    @classmethod
    def execute(
        cls, model: Any, conditioning: Any, timeline: str, margin: float = 0.15, lambda_presence: float = 0.1, tau: float = 0.9,
        occurrence: str = "all", fps: float = 0.0, model_low_noise: Any = None,
        classifier: Classifier | None = None,
    ) -> io.NodeOutput:
        require_wan_pair(model, model_low_noise, NAME)
        for given, input_name in ((model, "model"), (model_low_noise, "model_low_noise")):
            if classifier is not None and given is not None:
                classifier.check_model(model_identity(given), NAME, input_name)
        parsed, reading = read_timeline(timeline, NAME, lists=False)
        objective = Composition(
            timeline=parsed, margin=margin, tau=tau, lambda_presence=lambda_presence, occurrence=read_occurrence(occurrence), fps=fps,
            classifier=classifier,
        )
        return guided_by_timeline(
            cls, model, model_low_noise, objective, conditioning, lambda found, rate: describe(objective, found, rate) + reading
        )


def describe(objective: Composition, found: tuple[str, ...], fps: float) -> str:
    """One line per thing with its tokens, then one per relation with its span."""
    relations = []
    for one in objective.constraints:
        first, *others = one.entities
        strength = f" x{one.strength:g}" if one.strength != 1 else ""
        judge = "  by the classifier" if objective.classified(one) else ""
        relations.append(f"{' '.join([first, one.relation.name, ' and '.join(others)]).strip()}  |  {one.span}{strength}{judge}")
    return "\n".join([*found, *relations, f"seconds at {fps:g} fps"])
