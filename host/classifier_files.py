"""Where classifiers lie: `models/composition`, and the one of the playground in this pack."""

import os
import re
from pathlib import Path
from typing import Any

import folder_paths

from ..guidance.classifier import Classifier
from ..guidance.classifier_file import ClassifierFileError, load_classifier
from .vision import FrozenVision

FOLDER = "composition"
OWN = Path(__file__).resolve().parents[1] / "playground" / "classifiers"
NAME_OF_FILE = re.compile(r"[\w][\w .+-]{0,99}")


def register_folder() -> None:
    """Make `composition` a folder of models to the host; paths that a user's extra_model_paths.yaml has added stay."""
    for path in (Path(folder_paths.models_dir) / FOLDER, OWN):
        folder_paths.add_model_folder_path(FOLDER, str(path))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")


def classifier_names() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def load_named(name: str, node: str, clip_vision: Any = None) -> Classifier:
    """The classifier of that name. Raises ValueError, naming `node`, for a name that is not listed: none can point out of the folders."""
    if name not in classifier_names():
        listed = ", ".join(classifier_names()) or "none"
        raise ValueError(f"{node}: input `name` = {name!r}: there is no such file in models/{FOLDER} (there are: {listed})")
    path = folder_paths.get_full_path_or_raise(FOLDER, name)
    try:
        return load_classifier(Path(path), None if clip_vision is None else FrozenVision(clip_vision, node))
    except ClassifierFileError as error:
        raise ClassifierFileError(f"{node}: input `name`: {error}") from error


def file_for(name: str, node: str) -> Path:
    """Where a new classifier of that name goes: straight into `models/composition`. Raises ValueError if one lies there: it may be the
    work of hours."""
    stem = name.strip().removesuffix(".safetensors")
    if not NAME_OF_FILE.fullmatch(stem) or stem.endswith((".", " ")):
        raise ValueError(f"{node}: input `name` = {name!r}: write letters, digits, spaces and . + - _ only, without folders")
    path = Path(os.path.join(folder_paths.models_dir, FOLDER, f"{stem}.safetensors"))
    if path.exists():
        raise ValueError(
            f"{node}: input `name` = {name!r}: models/{FOLDER}/{path.name} is there already: write another name, or move that file "
            "away (to use it, take Load Composition Classifier)"
        )
    return path
