"""What Temporal Mask costs: total over plain, in forward-equivalents and in seconds, on the playground with 30 steps and CFG."""

import argparse
import json
import statistics
import sys
import time
from typing import Any

from ...guidance.budget import PRESETS
from ...guidance.temporal_mask import TemporalMask
from ...guidance.timeline import parse_timeline
from ...playground.sampling import Playground

CAPTION = "a red circle and a blue square"
TIMELINE = "0s - 1.5s red circle\n1.5s - end blue square"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench temporal_mask", description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3, help="of each kind; the median counts")
    options = parser.parse_args(arguments)
    playground = Playground(options.steps)
    conditioning = playground.encode([CAPTION])
    # No early stop: the most that a preset may spend.
    objective = TemporalMask(parse_timeline(TIMELINE), tau_corr=1.0)
    kinds: dict[str, dict[str, Any]] = {"plain": {}}
    kinds |= {name: {"objective": objective, "budget": budget} for name, budget in PRESETS.items()}
    playground.sample(conditioning, 1, 0, objective, PRESETS["fast"])  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    factors: dict[str, float | None] = {}
    for run in range(options.runs):  # interleaved, so that other work on the machine touches all alike
        for name, guidance in kinds.items():
            started = time.perf_counter()
            _, report = playground.sample(conditioning, 1, run, **guidance)
            seconds[name].append(time.perf_counter() - started)
            factors[name] = report.cost_factor
            sys.stderr.write(f"{name}: {seconds[name][-1]:.2f} s\n")
    median = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    over_plain = {name: {"forward_equivalents": factors[name], "seconds": round(median[name] / median["plain"], 3)} for name in PRESETS}
    result = {"steps": options.steps, "total_over_plain": over_plain, "seconds": median}
    sys.stdout.write(json.dumps(result) + "\n")
