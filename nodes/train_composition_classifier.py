"""Train Composition Classifier: a folder of labelled videos becomes a file that Composition Guide can be guided by."""

import json
import shutil
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance.classifier import SIZES, Classifier
from ..guidance.classifier_file import save_classifier
from ..guidance.classifier_training import NAME, TrainingPlan
from ..guidance.labels import Label, TrainingVideo, is_inside, read_labels, read_labels_csv
from ..host.classifier_files import file_for
from ..host.geometry import require_wan
from ..host.map_features import planned, trained
from ..host.training_videos import LIST, examples_of
from ..host.vision import FrozenVision
from .classifier_socket import CLASSIFIER

WORK = Path("wan_conductor", "training")  # holds nothing but what trainings leave until they are done, for it is removed then


class TrainCompositionClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        options = TrainingPlan()
        return io.Schema(
            node_id="WanConductorTrainCompositionClassifier",
            display_name=NAME,
            category="Wan Conductor",
            description="Teaches relations by examples (CVG): a folder of videos with a list of what they show becomes a small classifier "
            "that reads the model's attention, for Composition Guide. Neither the video model nor the text encoder is changed.",
            search_aliases=["cvg", "train classifier", "composition", "relation", "teach relation", "labels.csv"],
            is_output_node=True,
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="The Wan model that is to be guided; of Wan 2.2's experts the high-noise one."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input(
                    "folder",
                    default="composition",
                    tooltip=f"A folder inside ComfyUI's input folder, with videos and a {LIST}: columns file, label, entity_a, and where "
                    "needed entity_b, entity_c; prompt may be left empty.",
                ),
                io.String.Input(
                    "name",
                    default="my relations",
                    tooltip="The file in models/composition that is written; a file that is there already is never overwritten. The "
                    "same name goes on with a training that was cut off.",
                ),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    placeholder="left of\nhands over | 3 | mirror = hands over",
                    tooltip="One label per line; empty: the relations of Composition Guide that the list uses. A new one says its number "
                    "of things behind a bar, and with `mirror = label`, `reverse = label` what a mirrored or reversed video shows.",
                ),
                io.Combo.Input(
                    "size",
                    options=list(SIZES),
                    default=options.size,
                    tooltip="small: below 200,000 numbers, for up to a few hundred videos. full: 1 to 3 million, for thousands.",
                ),
                io.Int.Input(
                    "width", default=416, min=16, max=4096, step=16, tooltip="Width at which the videos are seen. Higher: slower."
                ),
                io.Int.Input("height", default=240, min=16, max=4096, step=16, tooltip="Height at which they are seen. Higher: slower."),
                io.Int.Input(
                    "length",
                    default=49,
                    min=5,
                    max=1025,
                    step=4,
                    tooltip="Frames that each video is brought to, 4n + 1. Higher: finer in time, slower.",
                ),
                io.Boolean.Input(
                    "augment",
                    default=True,
                    tooltip="Also learn from every video mirrored, backwards, and both, with the label that this makes of it. Four times "
                    "as many examples, four times as slow.",
                ),
                io.Int.Input(
                    "steps",
                    default=options.steps,
                    min=1,
                    max=1000000,
                    tooltip="Updates of the classifier at most. Higher: longer; the best one on held-back videos is kept anyway.",
                ),
                io.Int.Input(
                    "patience",
                    default=options.patience,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip=f"Ends after this many measurements (every {options.measure_every} updates) without progress on held-back "
                    "videos. Higher: more persistent. 0: never.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**31 - 1, tooltip="Of noise, order and start values. Another one: another result."
                ),
                io.String.Input(
                    "percents",
                    default="0.1, 0.2, 0.3",
                    advanced=True,
                    tooltip="Where in the schedule attention is read, 0..1. Higher: clearer, but too late to be guided.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    advanced=True,
                    tooltip="The model's blocks whose attention is read, counted from 0, such as 8, 12, 16. Higher: deeper, slower. Empty: "
                    "six from the middle.",
                ),
                io.Int.Input(
                    "inversion_steps",
                    default=0,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="0: noise is added to the videos. Higher: the model itself finds the noise that leads to each video, in as "
                    "many steps (true inversion); slower by that factor.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="A vision model (Load CLIP Vision) that looks at the attention as at a film, frozen, as in the paper. "
                    "Slower, and the classifier then needs the same one.",
                ),
            ],
            outputs=[
                CLASSIFIER.Output(display_name="CLASSIFIER", tooltip="For Composition Guide."),
                io.Image.Output(tooltip="How well it answers on held-back videos: confusion, by prompt, by step, by block."),
                io.String.Output(display_name="JSON", tooltip="The same as numbers."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        folder: str,
        name: str,
        labels: str = "",
        size: str = "small",
        width: int = 416,
        height: int = 240,
        length: int = 49,
        augment: bool = True,
        steps: int = 2000,
        patience: int = 10,
        seed: int = 0,
        percents: str = "0.1, 0.2, 0.3",
        blocks: str = "",
        inversion_steps: int = 0,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        require_wan(model, NAME)
        videos_folder, path = input_folder(folder), file_for(name, NAME)
        known, videos = listed(videos_folder, labels)
        if length % 4 != 1:
            raise ValueError(f"{NAME}: input `length` = {length}: must be 4n + 1, such as 49 or 81")
        backbone = None if clip_vision is None else FrozenVision(clip_vision, NAME)
        options = TrainingPlan(size=size, steps=steps, patience=patience, seed=seed)
        read_at, read_in = numbers_of(percents, "percents", float), numbers_of(blocks, "blocks", int)
        examples = examples_of(videos, known, videos_folder, vae, (length, height, width), augment, seed)
        plan = planned(model, examples[0].latent().shape, read_at, read_in)
        work = Path(folder_paths.get_output_directory()) / WORK / path.stem
        bar = comfy.utils.ProgressBar(len(examples) + steps)

        def on_step(step: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(len(examples) + step)

        classifier = trained(
            model,
            clip,
            examples,
            known,
            plan,
            options,
            work,
            inversion_steps,
            bar.update_absolute,
            on_step,
            comfy.model_management.get_torch_device(),
            backbone,
        )
        bar.update_absolute(len(examples) + steps)
        save_classifier(classifier, path)
        shutil.rmtree(work)
        return output(cls, classifier)

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> list[tuple[str, int, int]]:
        """A folder whose list or videos have changed is another one."""
        files = [path for path in sorted(input_folder(folder).rglob("*")) if path.is_file()]
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def output(node: type[io.ComfyNode], classifier: Classifier) -> io.NodeOutput:
    from ..guidance.classifier_pictures import classifier_figure  # matplotlib takes a second to import, too much for the host's start

    picture = torch.from_numpy(np.ascontiguousarray(classifier_figure(classifier)))[None].float() / 255
    told = json.dumps({"labels": [label.name for label in classifier.labels], **classifier.card}, indent=1, ensure_ascii=False)
    return io.NodeOutput(classifier, picture, told, ui=ui.PreviewImage(picture, cls=node))


def input_folder(folder: str) -> Path:
    """Inside ComfyUI's input folder, wherever a prompt over the API points to."""
    inputs = Path(folder_paths.get_input_directory())
    if not is_inside(inputs, folder.strip()) or not (inputs / folder.strip()).is_dir():
        raise ValueError(f"{NAME}: input `folder` = {folder!r}: there is no such folder inside ComfyUI's input folder ({inputs})")
    return inputs / folder.strip()


def listed(folder: Path, labels: str) -> tuple[tuple[Label, ...], tuple[TrainingVideo, ...]]:
    """The labels and videos of the folder's list; everything wrong with them at once, before anything is written."""
    try:
        return read_labels_csv(folder / LIST, read_labels(labels))
    except ValueError as error:
        raise ValueError(f"{NAME}: {error}") from error


def numbers_of(text: str, name: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"{NAME}: input `{name}` = {text!r}: must be numbers with commas between them") from error
