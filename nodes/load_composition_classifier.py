"""Load Composition Classifier: relations that were taught with examples, for Composition Guide."""

import os
from typing import Any

from comfy_api.latest import io

from ..guidance.classifier import Classifier
from ..guidance.classifier_file import SHARES
from ..host.classifier_files import FOLDER, classifier_names, load_named
from .classifier_socket import CLASSIFIER
from .shown import shown

NAME = "Load Composition Classifier"


class LoadCompositionClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorLoadCompositionClassifier",
            display_name=NAME,
            category="Wan Conductor",
            description=f"Loads a classifier of relations from models/{FOLDER}, as Train Composition Classifier writes it. Composition "
            "Guide then judges the relations among its labels by it.",
            search_aliases=["cvg", "composition", "relation", "classifier", "load relation classifier"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=classifier_names(),
                    tooltip=f"A file of models/{FOLDER}. It fits the model that it was trained on alone.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The vision model that it was trained with, if it was trained with one."
                ),
            ],
            outputs=[CLASSIFIER.Output(display_name="CLASSIFIER", tooltip="For Composition Guide.")],
        )

    @classmethod
    def execute(cls, name: str, clip_vision: Any = None) -> io.NodeOutput:
        classifier = load_named(name, NAME, clip_vision)
        return io.NodeOutput(classifier, ui=shown(cls, describe(classifier)))

    @classmethod
    def fingerprint_inputs(cls, name: str, clip_vision: Any = None) -> tuple[str, float]:
        """A file that has been trained anew is another one."""
        import folder_paths

        path = folder_paths.get_full_path(FOLDER, name)
        return name, os.path.getmtime(path) if path else 0.0


def describe(classifier: Classifier) -> str:
    """What it knows, how well, and of which model."""
    accuracy = classifier.card.get("accuracy") or {}
    known = ", ".join(label.name for label in classifier.labels)
    percent = {key: f"{100 * accuracy[key]:.0f} %" for key in SHARES if key in accuracy}
    told = (
        f"right on {percent['right_prompt']} of held-back videos, on {percent['wrong_prompt']} when the prompt says otherwise "
        f"(by chance {percent['chance']})"
        if len(percent) == len(SHARES)
        else "its accuracy is not known"
    )
    return f"{known}\n{told}\nfor {classifier.model}"
