"""The host's own Wan templates, read where its requirements have installed them."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPEC = importlib.util.find_spec("comfyui_workflow_templates_json")
assert SPEC and SPEC.submodule_search_locations, "the host's requirements bring comfyui_workflow_templates_json"
FOLDER = Path(SPEC.submodule_search_locations[0]) / "templates"


@dataclass(frozen=True)
class Template:
    """`subject` and `event`: words of its prompt. `turbo`: with the 4-step LoRAs that it has behind a switch. `patched`: parts of the host
    act inside the model with weights of their own, made for the whole video: no gradients there, and no windows.
    """

    name: str
    subject: str
    event: str
    turbo: bool = False
    patched: bool = False

    def __str__(self) -> str:
        return self.name + ("-turbo" if self.turbo else "")


TEMPLATES = [
    Template("text_to_video_wan", "fox", "moving quickly"),
    Template("image_to_video_wan", "girl", "turning around"),
    Template("wan2.1_fun_control", "women", "wierd faces"),
    Template("video_wan2_2_14B_t2v", "woman", "gentle smile"),
    Template("video_wan2_2_14B_t2v", "woman", "gentle smile", turbo=True),
    Template("video_wan2_2_14B_i2v", "dragon warrior", "stands still"),
    Template("video_wan2_2_14B_i2v", "dragon warrior", "stands still", turbo=True),
    Template("video_wan2_2_14B_flf2v", "小猫", "抬头"),
    Template("video_wan2_2_5B_ti2v", "street musician", "playing guitar"),
    Template("video_wan_vace_14B_t2v", "Nissan Skyline", "heavy motion blur"),
    Template("video_wan2_1_infinitetalk", "characters", "zooms in", patched=True),
]


def template_graph(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
