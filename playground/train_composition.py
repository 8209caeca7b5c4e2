"""Trains a composition classifier: on drawn videos of the playground, whose truth is known, or on a folder of videos. One JSON line."""

import argparse
import json
import logging
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import torch
from comfy.latent_formats import Wan21
from torch import Tensor

from ..guidance.classifier import SIZES, Classifier
from ..guidance.classifier_file import save_classifier
from ..guidance.classifier_training import TrainingPlan
from ..guidance.labels import KNOWN_LABELS, Label, LabelsError, named, place_of, read_labels, read_labels_csv, rivals_of, with_words
from ..host.map_features import Example, planned, trained
from ..host.training_videos import LIST, examples_of
from ..host.vision import FrozenVision
from . import codec, network, sockets, world
from .evaluate_composition import CASES, WORDS, judge

log = logging.getLogger("wan_conductor.playground")
WHERE = Path(__file__).parent / "classifiers" / "playground.safetensors"
TAUGHT = (*world.RELATIONS, "toward", "away", *world.STEP, "grows", "shrinks")
OPPOSITE = {"moves left": "moves right", "moves right": "moves left", "moves up": "moves down", "moves down": "moves up"}


def clip_showing(label: Label, rng: random.Random) -> tuple[world.Clip, Tensor, str]:
    """A clip that shows the label wherever it shows its things, its canvas video "f c h w", and which words of its caption tell it."""
    kind = "motion" if label.entities == 1 else "two_movers" if label.name in ("toward", "away") else "several"
    while True:
        clip = world.sample_clip(rng, kind, objects=2 if kind == "several" else None)
        told = words_that_tell(clip, label)
        if told is None or world.is_held_out(told_rightly(clip, label, told)):
            continue
        video = world.draw([clip])[0]
        verdict = judge(video, CASES[label.name], [subject.color for subject in clip.subjects[: label.entities]])
        if verdict["accuracy"] == 1.0:
            return clip, video, told


def words_that_tell(clip: world.Clip, label: Label) -> str | None:
    """The words of the caption that say what is to be told from its rivals, rightly or not; None: it says nothing of the kind."""
    if label.name in world.RELATIONS:
        return next((words for words in world.RELATIONS if clip.relation and place_of(clip.caption, words) is not None), None)
    events = clip.subjects[0].events
    if len(events) > 1 or (label.entities == 2 and events[0] not in OPPOSITE):
        return None
    return events[0] if place_of(clip.caption, events[0]) is not None else None


def told_rightly(clip: world.Clip, label: Label, told: str) -> str:
    """The caption with the label's words in place of those that it tells. Toward and away have no words in this world."""
    if label.name in ("toward", "away"):
        return clip.caption
    return with_words(clip.caption, told, WORDS.get(label.name, label.name))


def prompts_of(clip: world.Clip, label: Label, told: str, labels: tuple[Label, ...], rng: random.Random) -> tuple[str, str]:
    """p+ and p-; of toward and away p- tells the opposite motion."""
    if label.name in ("toward", "away"):
        return clip.caption, with_words(clip.caption, told, OPPOSITE[told])
    rival = rng.choice([one for one in rivals_of(label, labels) if one.name not in ("toward", "away")])
    return told_rightly(clip, label, told), told_rightly(clip, rival, told)


def world_examples(labels: tuple[Label, ...], clips: int, seed: int) -> list[Example]:
    """`clips` drawn videos of each label."""
    matrices, examples = network.load_weights("codec"), []
    for label in labels:
        rng = random.Random(f"{seed} {label.name}")
        for index in range(clips):
            clip, video, told = clip_showing(label, rng)
            entities = tuple(subject.name for subject in clip.subjects[: label.entities])
            latent = partial(latent_of, video, matrices)
            examples.append(
                Example(
                    f"{label.name} {index} of seed {seed}",
                    len(examples),
                    label,
                    entities,
                    prompts_of(clip, label, told, labels, rng),
                    latent,
                )
            )
    return examples


def latent_of(video: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """ "1 16 f h w" as a VAE gives it, of a canvas video "f c h w"."""
    return Wan21().process_out(codec.latent_of_canvas(video[None], matrices))


def loaded(options: argparse.Namespace) -> tuple[Any, Any, Callable[[], Any]]:
    """MODEL, CLIP, and a loader of the VAE: from files, or the playground's."""
    files = (options.model, options.text_encoder, options.vae)
    if not any(files):
        return sockets.load_model(), sockets.load_clip(), sockets.load_vae
    if not all(files):
        sys.exit("dev.py composition train: --model, --text-encoder and --vae belong together")
    import comfy.sd
    import comfy.utils

    clip = comfy.sd.load_clip([str(options.text_encoder)], clip_type=comfy.sd.CLIPType.WAN)
    return comfy.sd.load_diffusion_model(str(options.model)), clip, lambda: comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(options.vae)))


def examples_and_labels(options: argparse.Namespace, load_vae: Callable[[], Any]) -> tuple[list[Example], tuple[Label, ...]]:
    if options.videos is None:
        if unknown := [name for name in options.labels or () if name not in TAUGHT]:
            sys.exit(f"dev.py composition train: --labels {', '.join(unknown)}: the world shows {', '.join(TAUGHT)}")
        labels = tuple(label for name in options.labels or TAUGHT if (label := named(KNOWN_LABELS, name)) is not None)
        return world_examples(labels, options.clips, options.seed), labels
    try:
        labels, videos = read_labels_csv(options.videos / LIST, read_labels("\n".join(options.labels or ())))
    except LabelsError as error:
        sys.exit(f"dev.py composition train: {error}")
    size = (options.length, options.height, options.width)
    return examples_of(videos, labels, options.videos, load_vae(), size, not options.no_augmentation, options.seed), labels


def train(options: argparse.Namespace) -> Classifier:
    model, clip, load_vae = loaded(options)
    examples, labels = examples_and_labels(options, load_vae)
    if options.videos is not None:
        with torch.inference_mode():
            shape = examples[0].latent().shape
    else:
        shape = examples[0].latent().shape
    plan = planned(model, shape, options.percents, options.blocks)
    training = TrainingPlan(
        options.size, options.steps, options.batch, options.rate, options.patience, 50, options.seed, not options.single_prompt
    )

    def on_example(done: int) -> None:
        if done % 50 == 0 or done == len(examples):
            log.info("features of %d of %d videos", done, len(examples))

    def on_step(step: int) -> None:
        if step % 100 == 0:
            log.info("update %d of at most %d", step, training.steps)

    with torch.inference_mode():
        backbone = None if options.clip_vision is None else FrozenVision(comfy.clip_vision.load(str(options.clip_vision)), "--clip-vision")
        told = (on_example, on_step, comfy.model_management.get_torch_device(), backbone)
        return trained(model, clip, examples, labels, plan, training, options.folder, options.inversion_steps, *told)


def main(arguments: list[str] | None = None) -> None:
    defaults = TrainingPlan()
    parser = argparse.ArgumentParser(prog="dev.py composition train", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the one JSON line (always done; kept for scripts that say it)")
    parser.add_argument("--videos", type=Path, help=f"folder of videos with a {LIST}, instead of the playground's world")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="what to tell apart; new ones as 'hands over | 3 | mirror = ...'")
    parser.add_argument("--clips", type=int, default=150, help="drawn videos of each label")
    parser.add_argument("--size", choices=list(SIZES), default=defaults.size)
    parser.add_argument("--out", type=Path, default=WHERE, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="also if it is there already")
    parser.add_argument("--picture", type=Path, help="also write how well it answers as a .png")
    parser.add_argument("--folder", type=Path, default=Path("output/composition"), help="features and checkpoint, to go on from")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--rate", type=float, default=defaults.rate)
    parser.add_argument("--patience", type=int, default=defaults.patience)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--percents", type=float, nargs="+", default=[0.1, 0.2, 0.3], help="where in the schedule attention is read")
    parser.add_argument("--blocks", type=int, nargs="+", default=[], help="whose attention is read; default: from the middle")
    parser.add_argument("--inversion-steps", type=int, default=0, help="true inversion in as many steps; 0: noise is added")
    parser.add_argument("--single-prompt", action="store_true", help="the paper's ablation: learn from the right prompt alone")
    parser.add_argument("--no-augmentation", action="store_true", help="of --videos: not mirrored, not backwards")
    for name, value in (("length", 49), ("height", 240), ("width", 416)):
        parser.add_argument(f"--{name}", type=int, default=value, help="of --videos, in pixels and frames")
    parser.add_argument("--clip-vision", type=Path, help="file of a vision model that looks at the attention, frozen, as in the paper")
    for name in ("model", "text-encoder", "vae"):
        parser.add_argument(f"--{name}", type=Path, help="a file of real Wan; default: the playground's")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.overwrite:
        sys.exit(f"dev.py composition train: --out {options.out} is there already: name another file, or add --overwrite")
    classifier = train(options)
    save_classifier(classifier, options.out)
    if options.picture:
        from PIL import Image

        from ..guidance.classifier_pictures import classifier_figure

        options.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(classifier_figure(classifier)).save(options.picture)
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    told = {"file": str(options.out), "bytes": options.out.stat().st_size, "parameters": parameters}
    sys.stdout.write(json.dumps({**told, "labels": [label.name for label in classifier.labels], **classifier.card}) + "\n")
