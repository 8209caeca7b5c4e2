"""What report nodes share: the report's socket, and pictures with their numbers, previewed or saved side by side."""

from collections.abc import Callable, Iterable
from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import io, ui
from torch import Tensor

from ..guidance.report import GuidanceReport

REPORT = io.Custom("GUIDANCE_REPORT")


def report_input() -> io.Input:
    return REPORT.Input("report", tooltip="The report of a Guided KSampler.")


def save_prefix_input(example: str, saved: str = "the pictures (.png) and the numbers (.json)") -> io.Input:
    return io.String.Input(
        "save_prefix", default="", advanced=True,
        tooltip=f"Also saves {saved} under this name in the output folder, for example {example}. Empty: preview only.",
    )


def as_batch(pictures: list[np.ndarray], report: GuidanceReport, name: str, otherwise: str) -> np.ndarray:
    """Pictures "h w 3" as one batch "n h w 3" uint8, shorter ones with white below; none: a message that `name` did not act, and why.

    `otherwise`: the reason where the report has none.
    """
    from ..guidance.pictures import message  # matplotlib takes a second to import, too much for the host's start

    if not pictures:
        skipped = "; ".join(dict.fromkeys(entry.reason for entry in report.skipped if entry.reason.startswith(name)))
        pictures = [message(f"{name} did not act in this run: {skipped or otherwise}", 700, 450)]
    height = max(len(picture) for picture in pictures)
    return np.stack([np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in pictures])


def pictures_and_numbers(
    node: type[io.ComfyNode], images: Tensor, numbers: str, save_prefix: str, beside: Iterable[tuple[str, Callable[[Path], object]]] = ()
) -> io.NodeOutput:
    """Outputs IMAGE "n h w c" and JSON; with a prefix both also go into the output folder, the JSON named as the first picture.

    `beside`: further files, each by what follows the first picture's name in its own, and by what writes it.
    """
    if not save_prefix.strip():
        return io.NodeOutput(images, numbers, ui=ui.PreviewImage(images, cls=node))
    saved = ui.ImageSaveHelper.get_save_images_ui(images, save_prefix.strip(), cls=node)
    first = saved.results[0]
    path = Path(folder_paths.get_output_directory(), first.subfolder, first.filename)
    path.with_suffix(".json").write_text(numbers, encoding="utf-8")
    for ending, write in beside:
        write(path.with_name(path.stem + ending))
    return io.NodeOutput(images, numbers, ui=saved)
