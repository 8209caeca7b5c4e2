"""A folder of labelled videos as examples: each is seen as it is, mirrored, backwards, and both, with the label that this makes of it."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ..guidance.classifier_training import NAME
from ..guidance.labels import Label, TrainingVideo, rivals_of
from .map_features import Example

LIST = "labels.csv"


def examples_of(
    videos: Sequence[TrainingVideo], labels: Sequence[Label], folder: Path, vae: Any, size: tuple[int, int, int], augment: bool, seed: int
) -> list[Example]:
    """One for each view that has a label of `labels`; `size`: frames, height, width of the pixels that are encoded.

    Lines about one file are views of it too: they are all trained on, or all held back.
    """
    found, files = [], list(dict.fromkeys((folder / video.file).resolve() for video in videos))
    for video in videos:
        for mirror, backwards in ((False, False), (True, False), (False, True), (True, True)) if augment else ((False, False),):
            label = video.label.seen(mirror, backwards, labels)
            if label is None:
                continue
            stat = (folder / video.file).stat()
            told = f"{video.label.name}: {', '.join(video.entities)}"
            name = f"{video.file} ({told}){' mirrored' * mirror}{' backwards' * backwards} {size} {stat.st_size} {stat.st_mtime_ns}"
            wrong = random.Random(f"{seed} {video.file} {mirror} {backwards}").choice(rivals_of(label, labels))
            latent = partial(latent_of, vae, folder / video.file, size, mirror, backwards)
            prompts = video.prompt_with(label), video.prompt_with(wrong)
            found.append(Example(name, files.index((folder / video.file).resolve()), label, video.entities, prompts, latent))
    return found


def latent_of(vae: Any, path: Path, size: tuple[int, int, int], mirror: bool, backwards: bool) -> Tensor:
    """ "1 c f h w" of a video file. It is turned as pixels, before it is encoded: a latent run backwards is that of no video, for its
    first frame holds one picture and the others four."""
    return vae.encode(turned(read_frames(path, *size), mirror, backwards))


def turned(frames: Tensor, mirror: bool, backwards: bool) -> Tensor:
    """Frames "t h w c", mirrored left to right and run backwards: every pixel kept."""
    frames = frames.flip(2) if mirror else frames
    return frames.flip(0) if backwards else frames


def read_frames(path: Path, frames: int, height: int, width: int) -> Tensor:
    """The whole video in `frames` evenly chosen pictures, cropped in the middle to the shape asked for: "t h w 3" in 0..1."""
    try:
        images = InputImpl.VideoFromFile(str(path)).get_components().images
    except Exception as error:  # av has an error class for each way in which a file can be broken
        raise ValueError(f"{NAME}: `{path.name}` cannot be read as a video ({type(error).__name__}: {error})") from error
    if len(images) < 2:
        raise ValueError(f"{NAME}: `{path.name}` has {len(images)} frames: a relation over time needs a video")
    chosen = images[torch.linspace(0, len(images) - 1, frames).round().long(), ..., :3]
    scaled = comfy.utils.common_upscale(chosen.movedim(-1, 1), width, height, "area", "center")
    return scaled.movedim(1, -1).clamp(0, 1)
