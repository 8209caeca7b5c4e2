"""Wan 2.2's two experts: nodes take one MODEL or both, and return both."""

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..host.attach import attach
from ..host.geometry import require_wan


def pair_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="A Wan video model; of Wan 2.2's two experts the high-noise one."),
        io.Model.Input("model_low_noise", optional=True, tooltip="The low-noise expert of Wan 2.2. Leave it empty for one model."),
    ]


def pair_outputs() -> list[io.Output]:
    return [
        io.Model.Output(display_name="MODEL", tooltip="The model with this guidance."),
        io.Model.Output("model_low_noise", display_name="MODEL low noise", tooltip="The low-noise expert with the same guidance."),
    ]


def require_wan_pair(model: Any, model_low_noise: Any, node_name: str) -> None:
    require_wan(model, node_name)
    if model_low_noise is not None:
        require_wan(model_low_noise, node_name, "model_low_noise")


def guided_pair(model: Any, model_low_noise: Any, node_name: str, *guidance: Any) -> tuple[Any, Any]:
    """What both outputs carry: clones with all of `guidance` on them."""
    for one in guidance:
        model, model_low_noise = attach(model, one), model_low_noise and attach(model_low_noise, one)
    return model, low_noise_or_blocker(model_low_noise, node_name)


def low_noise_or_blocker(model_low_noise: Any, node_name: str) -> Any:
    """What the second output carries: the model, or a sentence for whoever uses it without having connected one."""
    if model_low_noise is not None:
        return model_low_noise
    return ExecutionBlocker(
        f"{node_name}: the output `MODEL low noise` is in use, but nothing is connected to the input `model_low_noise`: "
        "connect Wan 2.2's low-noise expert."
    )
