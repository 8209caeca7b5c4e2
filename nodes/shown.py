"""Text that a node shows on itself, and keeps in the history for whoever runs it over the API."""

from comfy_api.latest import io, ui


def shown(node: type[io.ComfyNode], text: str) -> ui.PreviewText:
    """Its `ui`; needs `hidden=[io.Hidden.unique_id]`. Sent as progress text, which the editor shows, and as PreviewText for the API."""
    unique_id = getattr(getattr(node, "hidden", None), "unique_id", None)
    if unique_id is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, unique_id)  # ty: ignore[missing-attribute]
    return ui.PreviewText(text)
