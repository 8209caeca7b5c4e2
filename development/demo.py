"""The demo: the playground's prompt in a real ComfyUI server, plain and guided, measured and laid out in output/demo/."""

import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from .client import ComfyUIClient
from .hosts import HOSTS, Host
from .pack import enter_host
from .progress_bar import ProgressBar
from .server import ComfyUIServer

ROOT = Path(__file__).resolve().parents[1]
PROMPT = ROOT / "playground" / "prompts" / "temporal_mask.json"
OUTPUT = ROOT / "output" / "demo"
# file in output/demo -> title of the node that saves it, and where in its output
SAVED = {
    "plain.mp4": ("save plain", "images"),
    "guided.mp4": ("save guided", "images"),
    "plain.latent": ("latent plain", "latents"),
    "guided.latent": ("latent guided", "latents"),
    "timing.png": ("Timing Report", "images"),
}


def demo(host: Host) -> int:
    """Run the prompt, leave the files in output/demo/, and print the numbers as the last line."""
    started = time.monotonic()
    prompt = json.loads(PROMPT.read_text(encoding="utf-8"))
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    with ComfyUIServer(host.path, HOSTS / "demo") as server:
        sys.stderr.write(f"ComfyUI {host.version} answers at {server.url}; its log is {server.log}\n")
        client = ComfyUIClient(server.url)
        outputs = client.run(prompt, ProgressBar(prompt))["outputs"]
        nodes = {node["_meta"]["title"]: name for name, node in prompt.items()}
        for name, (title, kind) in SAVED.items():
            file = outputs[nodes[title]][kind][0]
            (OUTPUT / name).write_bytes(client.fetch(file))
        timing = outputs[nodes["Timing Report"]]["images"][0]
        (OUTPUT / "report.json").write_bytes(client.fetch({**timing, "filename": timing["filename"].replace(".png", ".json")}))
    enter_host(host)
    report = json.loads((OUTPUT / "report.json").read_text(encoding="utf-8"))
    draw_filmstrip(report)
    files = ("plain.mp4", "guided.mp4", "filmstrip.png", "timing.png", "report.json")
    numbers = {
        "temporal_accuracy": {run: accuracy(OUTPUT / f"{run}.latent", report) for run in ("plain", "guided")},
        "seconds": round(time.monotonic() - started, 1),
        "outputs": {Path(name).stem: str(OUTPUT / name) for name in files},
    }
    sys.stdout.write(json.dumps(numbers) + "\n")
    return 0


def masks(report: dict[str, Any]) -> dict[str, list[float]]:
    """What was asked for: phrase -> weight of every latent frame."""
    first = report["steps"][0]
    return dict(zip(first["phrases"][0], first["loop"]["iterations"][0]["objectives"][0]["traces"]["mask"]))


def draw_filmstrip(report: dict[str, Any]) -> None:
    from PIL import Image

    pictures = importlib.import_module("wan_conductor.guidance.pictures")
    wanted = masks(report)
    strip = pictures.filmstrip(
        *(frames(OUTPUT / f"{run}.mp4") for run in ("plain", "guided")), mask=list(wanted.values()), phrases=list(wanted), fps=report["fps"]
    )
    Image.fromarray(strip).save(OUTPUT / "filmstrip.png")


def frames(video: Path) -> Any:
    """All frames of a video, "t h w 3" uint8."""
    import av
    import numpy as np

    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def accuracy(saved_latent: Path, report: dict[str, Any]) -> float:
    """Share of (phrase, latent frame) pairs in which the phrase's object is seen exactly when it was asked for."""
    import safetensors.torch

    metrics = importlib.import_module("wan_conductor.playground.metrics")
    latent = safetensors.torch.load_file(saved_latent)["latent_tensor"]
    areas = metrics.color_areas(canvas(latent))
    verdicts = []
    for phrase, mask in masks(report).items():
        color = next(word for word in phrase.split() if word in areas)
        verdicts += [bool(seen) == (weight >= 0.5) for seen, weight in zip(metrics.presence(areas[color]), mask)]
    return round(sum(verdicts) / len(verdicts), 4)


def canvas(latent: Any) -> Any:
    """The drawn world's pictures of a saved latent: "1 16 f h w" -> "f c h w"."""
    from comfy.latent_formats import Wan21

    codec, network = (importlib.import_module(f"wan_conductor.playground.{name}") for name in ("codec", "network"))
    return codec.canvas_of_latent(Wan21().process_in(latent), network.load_weights("codec"))[0]
