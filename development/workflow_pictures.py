"""The pictures beside the example workflows: each one's prompt in a real ComfyUI server, plain above guided, drawn anew."""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from .client import ComfyUIClient
from .demo import frames
from .hosts import HOSTS, Host
from .pack import load_pack
from .progress_bar import ProgressBar
from .server import ComfyUIServer

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "playground" / "prompts"
FOLDERS = ("workflows", "web/docs")  # the template browser takes pictures from one, help pages from the other
VIDEOS = ROOT / "output" / "pictures"
FPS = 16.0


def draw_pictures(host: Host, names: list[str]) -> int:
    """Write NAME.jpg into FOLDERS for the workflows `names`, all if empty; their videos stay in output/pictures/."""
    every = sorted(path.stem for path in PROMPTS.glob("*.json"))
    if unknown := sorted(set(names) - set(every)):
        sys.exit(f"dev.py pictures: no workflow {', '.join(unknown)}: there are {', '.join(every)}")
    load_pack()
    with ComfyUIServer(host.path, HOSTS / "pictures") as server:
        client = ComfyUIClient(server.url)
        for name in names or every:
            started = time.monotonic()
            prompt = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
            videos = sample(client, prompt, VIDEOS / name)
            save(draw(prompt, videos), name)
            sys.stderr.write(f"{name}: {time.monotonic() - started:.1f} s\n")
    return 0


def sample(client: ComfyUIClient, prompt: dict[str, Any], folder: Path) -> list[Path]:
    """Run the prompt; the files of the plain and of the guided video, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = client.run(prompt, ProgressBar(prompt))["outputs"]
    nodes = {node["_meta"]["title"]: name for name, node in prompt.items()}
    videos = [folder / "plain.mp4", folder / "guided.mp4"]
    for video in videos:
        video.write_bytes(client.fetch(outputs[nodes[f"save {video.stem}"]]["images"][0]))
    return videos


def draw(prompt: dict[str, Any], videos: list[Path]) -> Any:
    """The filmstrip, "h w 3" uint8."""
    import numpy as np

    pictures = guidance("pictures")
    plain, guided = map(frames, videos)
    bars = asked_for(prompt, len(plain))
    mask = list(bars.values()) or np.zeros((0, len(plain)))
    return pictures.filmstrip(plain, guided, mask=mask, phrases=list(bars), fps=FPS)


def save(strip: Any, name: str) -> None:
    from PIL import Image

    for folder in FOLDERS:
        Image.fromarray(strip).save(ROOT / folder / f"{name}.jpg", quality=90)


def asked_for(prompt: dict[str, Any], length: int) -> dict[str, list[float]]:
    """What the prompt's timeline asks for: label -> weight of every latent frame; nothing where no node has a timeline."""
    latent_time, timeline = guidance("latent_time"), guidance("timeline")
    latent_frames = latent_time.latent_frames_of(length)
    for node in prompt.values():
        if "timeline" not in node["inputs"]:
            continue
        parsed = timeline.parse_timeline(node["inputs"]["timeline"])
        if node["class_type"] == "WanConductorMultiPromptBlend":
            return blended(parsed, node["inputs"])
        return {label(line.body): timeline.line_weights(line, latent_frames, FPS).tolist() for line in parsed.lines}
    return {}


def label(body: str) -> str:
    """A phrase, or the middle of `a | relation | b`."""
    return body.split("|")[1].strip() if "|" in body else body


def blended(parsed: Any, inputs: dict[str, Any]) -> dict[str, list[float]]:
    """How much of each prompt Multi Prompt Blend puts into every latent frame."""
    blend, lines, latent_time = guidance("blend"), guidance("blend_timeline"), guidance("latent_time")
    window, overlap = latent_time.latent_frames_of(inputs["frames_per_window"]), inputs["overlap"] // latent_time.TEMPORAL_STRIDE
    repeats = blend.repeats_for(lines.durations_of(parsed, FPS), window, overlap, inputs["transitions"])
    weights = blend.prompt_weights(blend.MultiPromptBlend(window, overlap, repeats, inputs["transitions"]))
    return {f"prompt {number}": row.tolist() for number, row in enumerate(weights, 1)}


def guidance(name: str) -> Any:
    """A module of the pack's methods; the pack is a package only once `load_pack` has run."""
    return importlib.import_module(f"wan_conductor.guidance.{name}")
