"""What nodes do with the guidance that a timeline became: look its phrases up, attach it to both models, and show what was found."""

from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io

from ..guidance.latent_time import frames_per_second
from ..host.tokens import check_guidance
from .pair import guided_pair, low_noise_or_blocker
from .shown import PictureAndText, shown

NOTHING_ASKED = "Nothing is asked for (no line, or every strength is 0): the model passes through unchanged."


def guided_by_timeline(
    node: type[io.ComfyNode], model: Any, model_low_noise: Any, guidance: Any, conditioning: Any,
    tell: Callable[[tuple[str, ...], float], str | PictureAndText], parts: Sequence[Any] | None = None,
) -> io.NodeOutput:
    """Both outputs of a node with a timeline. Where it asks for nothing, the very models.

    `tell`: from the tokens of each phrase, a line each, and the frames per second, what the node shows. `parts`: what to attach, if not
    `guidance` itself.
    """
    parts = [guidance] if parts is None else parts
    if not guidance.phrases or not parts:
        return io.NodeOutput(model, low_noise_or_blocker(model_low_noise, guidance.name), ui=shown(node, NOTHING_ASKED))
    found = check_guidance(guidance, conditioning)
    told = tell(found, frames_per_second(model.model.latent_format.latent_channels, guidance.fps))
    pair = guided_pair(model, model_low_noise, guidance.name, *parts)
    return io.NodeOutput(*pair, ui=shown(node, told) if isinstance(told, str) else told)
