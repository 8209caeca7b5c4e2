"""What report nodes share: the report's socket, and pictures with their numbers, previewed or saved side by side."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor


def report_input() -> io.Input:
    return io.Custom("GUIDANCE_REPORT").Input("report", tooltip="The report of a Guided KSampler.")


def pictures_and_numbers(node: type[io.ComfyNode], images: Tensor, numbers: str, save_prefix: str) -> io.NodeOutput:
    """Outputs IMAGE "n h w c" and JSON; with a prefix both also go into the output folder, the JSON named as the first picture."""
    if not save_prefix.strip():
        return io.NodeOutput(images, numbers, ui=ui.PreviewImage(images, cls=node))
    saved = ui.ImageSaveHelper.get_save_images_ui(images, save_prefix.strip(), cls=node)
    first = saved.results[0]
    path = Path(folder_paths.get_output_directory(), first.subfolder, first.filename)
    path.with_suffix(".json").write_text(numbers, encoding="utf-8")
    return io.NodeOutput(images, numbers, ui=saved)
