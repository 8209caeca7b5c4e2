"""The benchmark's metrics: is each object there when its mask says so, and is the strongest movement in its second?

Frames are "t h w 3" uint8; a video of 4n+1 frames has one verdict for each of n+1 latent frames.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ...guidance.latent_time import frames_of_latent, pixel_frames
from ...playground.metrics import interval
from .prompt_sets import LATENTS_PER_SECOND, BenchmarkPrompt

Detector = Callable[[np.ndarray], Collection[str]]  # one frame "h w 3" -> the classes that are seen in it
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two frames "h w 3" -> "h w 2", pixels from the first to the second
Video = tuple[BenchmarkPrompt, np.ndarray]

# The paper's (CVPR 2026), in percent: accuracy, and of objects absence and presence; of Wan 2.1 1.3B, which is told the time in the prompt,
# and of the same with TempoControl.
PAPER = {
    "one_object": {"plain": (63.94, 67.38, 60.50), "guided": (83.56, 87.38, 79.75)},
    "two_objects": {"plain": (37.50, 45.85, 29.15), "guided": (53.17, 57.32, 49.02)},
    "movement": {"plain": (19.00,), "guided": (54.00,)},
}


def judged_frames(frames: np.ndarray, latents: int) -> np.ndarray:
    """The last frame of each latent frame, 0, 4, 8, ...: what np.linspace(0, t-1, latents) picks of t = 4n+1. Refuses any other t."""
    if len(frames) != pixel_frames(latents):
        raise ValueError(f"{len(frames)} frames: the benchmark's masks have {latents} latent frames, for {pixel_frames(latents)} frames")
    return frames[[frames_of_latent(latent)[-1] for latent in range(latents)]]


def object_verdicts(prompt: BenchmarkPrompt, frames: np.ndarray, detect: Detector) -> np.ndarray:
    """Per latent frame: the timed object is there exactly when its mask is 1, and the static one, if there is one, always: bool "f"."""
    seen = [detect(frame) for frame in judged_frames(frames, len(prompt.mask))]
    right = np.array([(prompt.temporal_class in classes) == bool(wanted) for classes, wanted in zip(seen, prompt.mask)])
    if prompt.static_class is not None:
        right &= np.array([prompt.static_class in classes for classes in seen])
    return right


def score_objects(videos: Iterable[Video], detect: Detector) -> dict[str, Any]:
    """accuracy: mean over videos of the share of frames that are right; absence, presence: the same pooled over the frames of all videos in
    which the mask is 0 and 1. In percent; `interval` is that of the accuracy, 95 %."""
    verdicts, masks = [], []
    for prompt, frames in videos:
        verdicts.append(object_verdicts(prompt, frames, detect))
        masks.append(np.array(prompt.mask, dtype=bool))
    pooled, active = np.concatenate(verdicts), np.concatenate(masks)
    told = told_accuracy([of_video.mean() for of_video in verdicts])
    return {**told, "absence": percent(pooled[~active].mean()), "presence": percent(pooled[active].mean())}


def movement_by_second(frames: np.ndarray, latents: int, flow: Flow) -> np.ndarray:
    """Mean length of the flow between neighbours among the judged frames, averaged over the four pairs of each second: "s"."""
    judged = judged_frames(frames, latents)
    lengths = np.array([np.linalg.norm(flow(one, other), axis=-1).mean() for one, other in zip(judged, judged[1:])])
    return lengths.reshape(-1, LATENTS_PER_SECOND).mean(1)


def score_movement(videos: Iterable[Video], flow: Flow) -> dict[str, Any]:
    """accuracy: share of videos that move most in the second that was asked for, in percent."""
    return told_accuracy([
        float(int(movement_by_second(frames, len(prompt.mask), flow).argmax()) == prompt.second) for prompt, frames in videos
    ])  # fmt: skip


def told_accuracy(of_videos: Sequence[float]) -> dict[str, Any]:
    mean, limits = interval(np.array(of_videos))
    return {"accuracy": percent(mean), "interval": [percent(limit) for limit in limits], "videos": len(of_videos)}


def percent(share: float) -> float:
    return round(100 * float(share), 2)


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What was measured, set by set and run by run, beside the paper's numbers, in Markdown."""
    heads = ["set", "run", "videos", "accuracy (95 %)", "absence", "presence", "paper: accuracy", "absence", "presence"]
    rows = ["| " + " | ".join(heads) + " |", "|---|---" + "|---:" * 7 + "|"]
    for of_set, runs in results.items():
        for run, scores in runs.items():
            low, high = scores["interval"]
            own = [f"{scores['accuracy']:.2f} ({low:.1f} to {high:.1f})", *(number(scores.get(key)) for key in ("absence", "presence"))]
            papers = [*PAPER[of_set].get(run, ()), None, None, None][:3]
            rows.append(f"| {of_set} | {run} | {scores['videos']} | " + " | ".join([*own, *map(number, papers)]) + " |")
    return "\n".join(rows)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
