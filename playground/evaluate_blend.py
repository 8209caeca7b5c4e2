"""Measures Multi Prompt Blend on the drawn world, beside single prompts, a hard cut and the host's own context windows. One JSON line."""

import argparse
import copy
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.context_windows
import torch
from torch import Tensor

from ..guidance.blend import MultiPromptBlend, prompt_weights
from ..guidance.kv_sharing import KVSharing
from ..guidance.objective import PhraseRef
from ..guidance.report import finite
from ..host.blend_prompts import window_conditioning
from . import world
from .blend_stories import CHANGES, Story, judge, mean_of, stories
from .command_line import add_sampling
from .evaluate import figure
from .sampling import LATENT_SHAPE, Guidance, Playground

log = logging.getLogger("wan_conductor.playground")
BLEND = MultiPromptBlend(window=world.LATENT_FRAMES, overlap=6, repeats=(1, 1), sharing=None)  # the paper's window
SHARED: dict[str, dict[str, Any]] = {
    "blend_kv": {"sharing": KVSharing()},
    "blend_kv_faithful": {"sharing": KVSharing(), "plan": "faithful"},
    "blend_kv_all_blocks": {"sharing": KVSharing(last_blocks=1.0)},  # the paper's sixth is one block here, too late for the layout
    # once the prompt has decided what is there, and only while the places are decided
    "blend_kv_all_blocks_20_to_40": {"sharing": KVSharing(0.2, 0.4, last_blocks=1.0)},
}
PARTS = ("single", "hard_cut")  # of the same videos: each prompt by itself, judged one by one, and one after the other
HOST = ("host_windows", "host_windows_no_causal_fix")
VARIANTS = (*PARTS, *HOST, "blend", *SHARED, "blend_masked")
FEWER = (*PARTS, "host_windows", "blend", "blend_kv", "blend_kv_all_blocks", "blend_kv_all_blocks_20_to_40")
REPEATED_WINDOWS = 5  # of one prompt


def evaluate_variants(
    playground: Playground, told: Sequence[Story], variants: Sequence[str], seeds: int, seed: int, blend: MultiPromptBlend = BLEND
) -> dict[str, Any]:
    """Each story x `seeds` noises at every one of `variants`, with the windows of `blend`."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for index, story in enumerate(told):
        here = seed + seeds * index
        parts = judged_parts(playground, story, seeds, here) if set(PARTS) & set(variants) else {}
        for name in (name for name in PARTS if name in variants):
            rows[name] += parts[name]
        for name in (name for name in variants if name not in PARTS):
            rows[name] += judged(playground, name, story, seeds, here, blend)
        log.info("%d of %d stories of %d prompts", index + 1, len(told), len(story.told))
    return compared(rows, [index for index in range(len(told)) for _ in range(seeds)], told)


def compared(rows: dict[str, list[dict[str, float]]], groups: list[int], told: Sequence[Story]) -> dict[str, Any]:
    """Figures of each variant, its paired differences from others, and all of that by what changes; groups[i]: the story of row i."""
    changes = sorted({story.change for story in told})
    result = {name: beside_others(name, rows, groups) for name in rows}
    if len(changes) > 1:
        of_change = {change: [i for i, group in enumerate(groups) if told[group].change == change] for change in changes}
        for name in rows:
            result[name]["by_change"] = {
                change: beside_others(name, {of: [values[i] for i in chosen] for of, values in rows.items()}, [groups[i] for i in chosen])
                for change, chosen in of_change.items()
            }
    return result


def beside_others(name: str, rows: dict[str, list[dict[str, float]]], groups: list[int]) -> dict[str, Any]:
    others = () if name in PARTS else [other for other in ("single", "host_windows", "blend") if other in rows and other != name]
    minus = {f"minus_{other}": figures(differences(rows[name], rows[other]), groups) for other in others}
    return figures(rows[name], groups) | minus


def figures(values: Sequence[dict[str, float]], groups: list[int]) -> dict[str, Any]:
    """Means and 95 % intervals, stories drawn whole."""
    of = {key: figure([row[key] for row in values], groups) for key in values[0]}
    return {key: one["value"] for key, one in of.items()} | {"interval": {key: one["interval"] for key, one in of.items()}}


def differences(values: Sequence[dict[str, float]], others: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value[key] - other[key] for key in value} for value, other in zip(values, others, strict=True)]


def judged_parts(playground: Playground, story: Story, seeds: int, seed: int) -> dict[str, list[dict[str, float]]]:
    """The verdicts on each prompt by itself, a window long: single, their mean; hard_cut, on the same videos one after the other."""
    videos = [of_prompt(playground, prompt, seeds, seed + 7919 * number) for number, prompt in enumerate(story.prompts)]
    frames = videos[0].shape[1]
    whole, alone = range(frames), [replace(story, told=(told,)) for told in story.told]
    single = [mean_of([judge(part[i], one, [whole]) for part, one in zip(videos, alone, strict=True)]) for i in range(seeds)]
    spans = [range(start, start + frames) for start in range(0, frames * len(videos), frames)]
    return {"single": single, "hard_cut": [judge(torch.cat(parts), story, spans) for parts in zip(*videos, strict=True)]}


def judged(playground: Playground, name: str, story: Story, seeds: int, seed: int, blend: MultiPromptBlend) -> list[dict[str, float]]:
    """The verdicts on `seeds` videos of one variant that has the blend's length."""
    if len(story.told) > 1:
        blend = replace(blend, repeats=(1,) * len(story.told))
    spans = spans_of(name, len(story.told), blend)
    return [judge(video, story, spans) for video in sample_variant(playground, name, story, seeds, seed, blend)]


def of_prompt(playground: Playground, prompt: str, seeds: int, seed: int, latent_frames: int = world.LATENT_FRAMES) -> Tensor:
    """Plain videos "b f c h w" of one prompt."""
    return playground.sample(playground.encode([prompt]), seeds, seed, latent=empty(seeds, latent_frames))[0]


def empty(batch: int, latent_frames: int) -> dict[str, Tensor]:
    return {"samples": torch.zeros(batch, LATENT_SHAPE[0], latent_frames, *LATENT_SHAPE[2:])}


def sample_variant(
    playground: Playground, name: str, story: Story, seeds: int, seed: int, blend: MultiPromptBlend, watching: tuple[Guidance, ...] = ()
) -> Tensor:
    """Videos "b f c h w" of one variant, as long as the blend's; `watching`: guidance beside the blend."""
    if name == "no_windows":
        return of_prompt(playground, story.prompts[0], seeds, seed, blend.latent_frames)
    encoded = [playground.encode([prompt]) for prompt in story.prompts]
    latent = empty(seeds, blend.latent_frames)
    if name in HOST:
        windowed = copy.copy(playground)
        windowed.model = playground.model.clone()
        windowed.model.model_options["context_handler"] = host_windows(blend, causal_fix=name == "host_windows")
        return windowed.sample([entry for prompt in encoded for entry in prompt], seeds, seed, latent=latent)[0]
    masked = {"sharing": KVSharing(phrase=PhraseRef(story.name))}
    blend = replace(blend, **{"blend": {}, "blend_masked": masked, **SHARED}[name])
    return playground.sample(window_conditioning(encoded, blend), seeds, seed, (blend, *watching), latent=latent)[0]


def host_windows(blend: MultiPromptBlend, causal_fix: bool = True) -> Any:
    """ComfyUI's context windows with a prompt for each region, as long and as far overlapped as the blend's.

    causal_fix: as the host ships it, each later window is given the frame before it; ComfyUI 0.18.2 has none.
    """
    windows = comfy.context_windows
    handler = windows.IndexListContextHandler(
        windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=blend.window, context_overlap=blend.overlap, dim=2, split_conds_to_windows=True,
    )  # fmt: skip
    handler.causal_window_fix = causal_fix
    return handler


def spans_of(name: str, prompts: int, blend: MultiPromptBlend) -> list[range]:
    """The frames in which each prompt is the strongest, as that variant shares them out."""
    strongest = (host_prompt_weights(prompts, blend) if name in HOST else prompt_weights(blend)).argmax(0).tolist()
    return [range(strongest.index(number), len(strongest) - strongest[::-1].index(number)) for number in range(prompts)]


def host_prompt_weights(prompts: int, blend: MultiPromptBlend) -> Tensor:
    """How much of each prompt the host's windows put in a frame, "p t" fp32."""
    handler, weights = host_windows(blend), torch.zeros(prompts, blend.latent_frames)
    for frames in handler.context_schedule.func(blend.latent_frames, handler, {}):
        window = comfy.context_windows.IndexListContextWindow(frames, dim=2, total_frames=blend.latent_frames)
        weights[window.get_region_index(prompts), frames] += torch.tensor(handler.fuse_method.func(len(frames)), dtype=torch.float32)
    return weights


def evaluate_blend(playground: Playground, options: argparse.Namespace) -> dict[str, Any]:
    """Two prompts at every variant; then the same stories without transitions, longer stories, and one prompt over a long video."""
    seeds, seed = options.seeds, options.seed
    result: dict[str, Any] = {}
    if options.captions:
        result = evaluate_variants(playground, stories(options.captions, seed, 2, options.changes), options.variants, seeds, seed)
    if options.others:
        fewer = [name for name in FEWER if name in options.variants]
        whole = [name for name in fewer if name not in PARTS]
        abrupt = stories(options.others, seed, 2, options.changes)
        result["abrupt"] = evaluate_variants(playground, abrupt, whole, seeds, seed, replace(BLEND, transitions=0))
        result["by_prompts"] = {
            str(count): evaluate_variants(playground, stories(options.others, seed, count, options.changes), fewer, seeds, seed)
            for count in options.prompts
        }
        repeated, long = stories(options.others, seed, 1, ("nothing",)), replace(BLEND, repeats=(REPEATED_WINDOWS,))
        result["repeated"] = evaluate_variants(playground, repeated, ("no_windows", *whole), seeds, seed, long)
    settings = {"steps": playground.steps, "cfg": playground.cfg, "window": BLEND.window, "overlap": BLEND.overlap}
    return result | {"stories": options.captions, "other_stories": options.others, "seeds": seeds, "seed": seed} | settings


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground evaluate blend", description=__doc__)
    add_sampling(parser, captions=60, seeds=1, told="stories of two prompts; 0 leaves them out")
    parser.add_argument("--others", type=int, default=12, help="stories of every other kind: abrupt, longer, repeated; 0 leaves them out")
    parser.add_argument("--prompts", type=int, nargs="*", default=(3, 5), help="of the longer stories")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=CHANGES, metavar="CHANGE", help=f"of {', '.join(CHANGES)}")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, metavar="VARIANT", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--picture", type=Path, help="also draw which part of attention between windows is semantic, into this file")
    options = parser.parse_args(arguments)
    playground = Playground(options.steps, options.cfg)
    result = evaluate_blend(playground, options)
    if options.picture is not None:
        from .blend_attention import attention_between_windows  # which needs matplotlib

        result["attention"] = attention_between_windows(playground, options.picture, options.seed)
    sys.stdout.write(json.dumps(finite(result), allow_nan=False) + "\n")
