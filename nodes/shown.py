"""Text and pictures that a node shows on itself, and keeps in the history for whoever runs it over the API."""

import numpy as np
import torch
from comfy_api.latest import io, ui


def shown(node: type[io.ComfyNode], text: str) -> ui.PreviewText:
    """Its `ui`; needs `hidden=[io.Hidden.unique_id]`. Sent as progress text, which the editor shows, and as PreviewText for the API."""
    unique_id = getattr(getattr(node, "hidden", None), "unique_id", None)
    if unique_id is not None:
        from server import PromptServer

        lines = text.replace("\n", "  \n")  # Nodes 2.0 reads it as Markdown, where this is a line break
        PromptServer.instance.send_progress_text(lines, unique_id)  # ty: ignore[missing-attribute]
    return ui.PreviewText(text)


class PictureAndText(ui.PreviewImage):
    """Both at once: the host's own previews are one or the other."""

    def __init__(self, node: type[io.ComfyNode], picture: np.ndarray, text: str) -> None:
        super().__init__(torch.from_numpy(picture)[None].float() / 255, cls=node)
        self.text = shown(node, text)

    def as_dict(self) -> dict:
        return super().as_dict() | self.text.as_dict()
