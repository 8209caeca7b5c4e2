"""What the command lines of the evaluations share."""

import argparse
from dataclasses import replace
from typing import Any

from ..guidance.budget import PRESETS, GuidanceBudget
from .sampling import CFG

OF_BUDGET: dict[str, type] = {"end_percent": float, "step_size": float, "growth": float, "depth": float, "iterations": int}


def add_sampling(parser: argparse.ArgumentParser, captions: int, seeds: int = 3, told: str | None = None) -> None:
    """How much is sampled, and how; `captions` and `seeds` are defaults, `told` explains the captions."""
    parser.add_argument("--json", action="store_true", help="print the one JSON line (always done; kept for scripts that say it)")
    parser.add_argument("--captions", type=int, default=captions, help=told)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=CFG)


def add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    for name, kind in OF_BUDGET.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the preset's")


def add_knobs(parser: argparse.ArgumentParser, *names: str, told: str) -> None:
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=told)


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that were given."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def budget_of(options: argparse.Namespace) -> GuidanceBudget:
    return replace(PRESETS[options.preset], **given(options, *OF_BUDGET))
