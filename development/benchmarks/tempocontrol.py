"""TempoControl's own benchmark (arXiv 2510.02226, section 4) with real weights: samples its prompts, or takes finished videos, and scores.

Videos lie in VIDEOS/SET/RUN/NAME.mp4, RUN being plain or guided; --list tells the names. What is there is not sampled again. Scoring
objects needs ultralytics, scoring movement OpenCV: pip install ultralytics opencv-python-headless.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...guidance.budget import PRESETS
from ..measuring import show
from ..tempocontrol.prompt_sets import SETS, BenchmarkPrompt, read_prompts
from ..tempocontrol.scores import PAPER, Video, score_movement, score_objects, table
from ..tempocontrol.seeing import YoloDetector, farneback, read_video

RUNS = ("plain", "guided")
WEIGHTS = ("model", "text_encoder", "vae")
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "tempocontrol"
Prompts = dict[str, list[BenchmarkPrompt]]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench tempocontrol", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--prompts", type=Path, metavar="CSV", help="one of the authors' files in place of --sets")
    parser.add_argument("--limit", type=int, help="only the first prompts of each set, to try it out")
    parser.add_argument("--list", action="store_true", help="print the prompts, one JSON object on each line, and end")
    parser.add_argument("--videos", type=Path, default=OUTPUT, help="where the videos lie or go (default: output/tempocontrol)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--detector", default="yolov10n.pt", help="a YOLO of COCO's classes (the paper's: yolov10n.pt)")
    parser.add_argument("--json", action="store_true", help="on one line, without the table")
    weights = parser.add_argument_group("to sample what is missing: files in the model folders of the ComfyUI in COMFYUI_PATH")
    for name, folder in zip(WEIGHTS, ("diffusion_models", "text_encoders", "vae")):
        weights.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help=f"in {folder}")
    weights.add_argument("--preset", choices=list(PRESETS), default="paper", help="of guidance")
    weights.add_argument("--negative", default="", help="negative prompt")
    for name, kind, default in (
        ("steps", int, 50), ("cfg", float, 6.0), ("shift", float, 3.0), ("seed", int, 42), ("width", int, 832), ("height", int, 480)
    ):  # fmt: skip
        weights.add_argument(f"--{name}", type=kind, default=default)
    weights.add_argument("--sampler", default="uni_pc", help="the paper's; guided steps are Euler steps")
    options = parser.parse_args(arguments)
    prompts = chosen_prompts(options)
    if options.list:
        for of_set, of_this in prompts.items():
            for prompt in of_this:
                sys.stdout.write(json.dumps({"set": of_set, **dataclasses.asdict(prompt)}, ensure_ascii=False) + "\n")
        return
    given = [getattr(options, name) for name in WEIGHTS]
    if any(given) and not all(given):
        parser.error("sampling takes all of --model, --text-encoder and --vae")
    if all(given):
        sample_missing(prompts, options)
    results = score(prompts, options.videos, options.runs, options.detector)
    if not results:
        parser.error(f"no videos under {options.videos}: give --model, --text-encoder and --vae, or --videos (--list tells the names)")
    if not options.json:
        sys.stdout.write(table(results) + "\n")
    show({**results, "paper": {of_set: PAPER[of_set] for of_set in results}, "detector": options.detector}, one_line=True)


def chosen_prompts(options: argparse.Namespace) -> Prompts:
    if options.prompts:
        of_set, read = read_prompts(options.prompts)
        return {of_set: read[: options.limit]}
    return {of_set: SETS[of_set]()[: options.limit] for of_set in options.sets}


def sample_missing(prompts: Prompts, options: argparse.Namespace) -> None:
    from ..tempocontrol.sampling import Recipe, load, sample_video, write_video  # torch and the host: not for --list

    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe) if hasattr(options, field.name)})
    missing = [
        (of_set, prompt, run, path)
        for of_set, of_this in prompts.items()
        for prompt in of_this
        for run in options.runs
        if not (path := path_of(options.videos, of_set, run, prompt)).exists()
    ]
    if not missing:
        return
    sockets = load(options.model, options.text_encoder, options.vae, recipe.shift)
    for number, (of_set, prompt, run, path) in enumerate(missing):
        sys.stderr.write(f"{number + 1} of {len(missing)}: {path}\n")
        write_video(path, sample_video(sockets, of_set, prompt, run == "guided", recipe))


def score(prompts: Prompts, folder: Path, runs: Sequence[str], detector: str) -> dict[str, dict[str, Any]]:
    """Of every set and run of which there are videos. Those that are missing are counted, and told."""
    results: dict[str, dict[str, Any]] = {}
    for of_set, of_this in prompts.items():
        for run in runs:
            there = [prompt for prompt in of_this if path_of(folder, of_set, run, prompt).exists()]
            if not there:
                continue
            if len(there) < len(of_this):
                sys.stderr.write(f"{of_set}, {run}: {len(of_this) - len(there)} of {len(of_this)} videos are missing\n")
            videos = read_videos(there, folder, of_set, run)
            scores = score_movement(videos, farneback()) if of_set == "movement" else score_objects(videos, yolo_for(there, detector))
            results.setdefault(of_set, {})[run] = {**scores, "missing": len(of_this) - len(there)}
    return results


def yolo_for(prompts: Sequence[BenchmarkPrompt], file: str) -> YoloDetector:
    detector = YoloDetector(file)
    detector.check({name for prompt in prompts for name in (prompt.temporal_class, prompt.static_class) if name})
    return detector


def read_videos(prompts: Sequence[BenchmarkPrompt], folder: Path, of_set: str, run: str) -> Iterator[Video]:
    for prompt in prompts:
        yield prompt, read_video(path_of(folder, of_set, run, prompt))


def path_of(folder: Path, of_set: str, run: str, prompt: BenchmarkPrompt) -> Path:
    return folder / of_set / run / f"{prompt.name}.mp4"
