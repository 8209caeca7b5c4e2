"""Text that a node shows on itself, and keeps in the history for whoever runs it over the API."""

from comfy_api.latest import io, ui


def shown(node: type[io.ComfyNode], text: str) -> ui.PreviewText:
    """The node's `ui`; needs `hidden=[io.Hidden.unique_id]`. It goes out as progress text and as PreviewText; editors show the former only."""
    unique_id = getattr(getattr(node, "hidden", None), "unique_id", None)
    if unique_id is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, unique_id)
    return ui.PreviewText(text)
