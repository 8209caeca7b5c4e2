"""Spectral Report: pictures of how frames looked at one another in a run, and of what Spectral Homeostasis changed between two."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.homeostasis import NAME
from ..guidance.report import GuidanceReport, finite
from ..guidance.spectral_record import SpectralRecord
from ..guidance.spectral_statistics import PairedCalls, paired_calls, video_tests
from .report_output import REPORT, pictures_and_numbers, save_prefix_input

logger = logging.getLogger("wan_conductor")

TITLE = "Spectral Report"
NOT_ATTACHED = f"Sample with Guided KSampler and a model that has {NAME}; with tau 0 it only measures."
OF_A_RUN = {"overview": "spectral_figure", "maps": "maps_figure", "operators": "operators_figure"}
OF_PAIRS = {
    "shift": "shift_figure", "differences": "differences_figure", "cells": "cells_figure", "effects": "effects_figure",
    "dose": "dose_figure", "videos": "videos_figure", "heads": "heads_figure",
}
ALL = {"all of the run": OF_A_RUN, "all of the pair": OF_PAIRS}
SIZE_OF_ALL = {"width": 780, "height": 700}  # pictures of one batch are alike in size


class SpectralReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorSpectralReport",
            display_name=TITLE,
            category="Wan Conductor",
            description="Draws how frames looked at one another in every self-attention of a run with Spectral Homeostasis, and, with the "
            "report of a plain run, what the correction changed. Connect the report of Guided KSampler.",
            search_aliases=["spectral homeostasis plot", "temporal attention map", "tension map", "eigenvalues", "sth report"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                REPORT.Input(
                    "report",
                    tooltip="The report of a Guided KSampler whose model has Spectral Homeostasis: of one video, of a batch, or a list of "
                    "reports.",
                ),
                REPORT.Input(
                    "plain", optional=True,
                    tooltip="The report of the same run with tau 0, the node still attached; for a list of reports a list as long.",
                ),
                io.Combo.Input(
                    "figure", options=[*OF_A_RUN, *OF_PAIRS, *ALL], default="overview",
                    tooltip="What to draw. overview, maps, operators: the run, one picture for each model and video. The others compare "
                    "it with `plain`.",
                ),
                save_prefix_input("wan/spectral", "the pictures (.png), the numbers (.json) and every run's calls (.npz)"),
            ],
            outputs=[
                io.Image.Output(tooltip="The pictures: one for each model and video, or for each model of a pair."),
                io.String.Output(display_name="JSON", tooltip="All numbers: every call of every run, their sums, and the paired tests."),
            ],
        )

    @classmethod
    def execute(
        cls, report: Sequence[GuidanceReport], figure: Sequence[str], plain: Sequence[GuidanceReport] = (),
        save_prefix: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        of_a_run = figure[0] in OF_A_RUN or ALL.get(figure[0]) is OF_A_RUN
        if not of_a_run and not plain:
            raise ValueError(
                f"{TITLE}: input `plain` = nothing, but `figure` = {figure[0]} compares two runs: connect the report of the same run with "
                "tau 0, or choose overview, maps or operators."
            )
        records = spectral_records(report)
        pairs = matched(records, spectral_records(plain)) if plain and records else {}
        shown = [record for of_model in records.values() for record in of_model] if of_a_run else list(pairs.values())
        names, size = (ALL[figure[0]].values(), SIZE_OF_ALL) if figure[0] in ALL else ([(OF_A_RUN | OF_PAIRS)[figure[0]]], {})
        pictures = [draw(of, **size) for of in shown for draw in drawings(names)] or [nothing_recorded(report)]
        images = torch.from_numpy(np.stack(pictures)).float() / 255
        numbers = json.dumps(finite(as_dict(records, pairs, report)), allow_nan=False, ensure_ascii=False)
        calls = [
            (f"{model.replace(' ', '_')}_{video}.npz", record.to_npz)
            for model, of_model in records.items()
            for video, record in enumerate(of_model)
        ]
        return pictures_and_numbers(cls, images, numbers, save_prefix[0], calls)


def drawings(names: Iterable[str]) -> list[Callable[..., np.ndarray]]:
    from ..guidance import spectral_comparisons, spectral_pictures  # matplotlib takes a second to import, too much for the host's start

    return [getattr(spectral_pictures if name in OF_A_RUN.values() else spectral_comparisons, name) for name in names]


def nothing_recorded(reports: Sequence[GuidanceReport]) -> np.ndarray:
    """A picture that says so, and why."""
    from ..guidance.pictures import message

    own = dict.fromkeys(reason for reason in reasons(reports) if reason.startswith(NAME))
    words = f"{TITLE}: `report` holds nothing of {NAME}. {'; '.join(own) or NOT_ATTACHED}"
    logger.warning(words)
    return message(words, 780, 300)


def spectral_records(reports: Sequence[GuidanceReport]) -> dict[str, list[SpectralRecord]]:
    """What Spectral Homeostasis measured, by model ("model", or the two experts), in the order of the reports and of their videos.

    A second node on the same model measures what the first left: "model node 2".
    """
    found: dict[str, list[SpectralRecord]] = {}
    for report in reports:
        nodes: Counter[str] = Counter()
        for patch in report.patches:
            if patch.name != NAME or patch.measured is None:
                continue
            nodes[patch.model] += 1
            model = patch.model if nodes[patch.model] == 1 else f"{patch.model} node {nodes[patch.model]}"
            for video in patch.measured["videos"]:
                found.setdefault(model, []).append(SpectralRecord.from_dict(video))
    return found


def matched(guided: dict[str, list[SpectralRecord]], plain: dict[str, list[SpectralRecord]]) -> dict[str, PairedCalls]:
    """The pairs of each model. Raises ValueError where the two lists of runs do not fit each other."""
    have, has = ({model: len(records) for model, records in runs.items()} for runs in (guided, plain))
    if have != has:
        found = (", ".join(f"{count} of {model}" for model, count in counts.items()) or "none" for counts in (have, has))
        raise ValueError("{}: runs measured in `report`: {}; in `plain`: {}. They must match. {}".format(TITLE, *found, NOT_ATTACHED))
    return {model: paired_calls(plain[model], guided[model]) for model in guided}


def as_dict(
    records: dict[str, list[SpectralRecord]], pairs: dict[str, PairedCalls], reports: Sequence[GuidanceReport]
) -> dict[str, Any]:
    return {
        "runs": {model: [record.to_dict() for record in of_model] for model, of_model in records.items()},
        "paired": {
            model: {metric: dataclasses.asdict(test) for metric, test in video_tests(of_model).items()} for model, of_model in pairs.items()
        },
        "skipped": reasons(reports),
    }


def reasons(reports: Sequence[GuidanceReport]) -> list[str]:
    return [skipped.reason for report in reports for skipped in report.skipped]
