"""A terminal's view of a running prompt: one bar over all nodes, the samplers' inner steps included."""

import sys
import time
from typing import Any

WIDTH = 28
SAMPLER_WEIGHT = 20.0  # of one unit for any other node: samplers take nearly all of the time


class ProgressBar:
    """Feed it the server's messages; it draws on standard error, one line per node where that is no terminal."""

    def __init__(self, prompt: dict[str, Any]):
        self.titles = {name: node.get("_meta", {}).get("title", node["class_type"]) for name, node in prompt.items()}
        self.weights = {name: SAMPLER_WEIGHT if "Sampler" in node["class_type"] else 1.0 for name, node in prompt.items()}
        self.shares = dict.fromkeys(prompt, 0.0)
        self.current = ""
        self.started = time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, message: dict[str, Any]) -> None:
        data = message.get("data", {})
        if message["type"] == "progress_state":
            for name, state in data["nodes"].items():
                self.advance(name, 1.0 if state["state"] == "finished" else state["value"] / (state["max"] or 1))
        elif message["type"] == "executing" and data.get("node"):
            self.enter(data["node"])
        elif message["type"] == "executed":
            self.advance(data["node"], 1.0)
        elif message["type"] == "execution_success":
            self.shares = dict.fromkeys(self.shares, 1.0)
            self.draw("done")
            if self.live:
                sys.stderr.write("\n")

    def enter(self, name: str) -> None:
        self.current = name
        if not self.live:
            sys.stderr.write(f"{time.monotonic() - self.started:6.1f} s  {self.titles.get(name, name)}\n")

    def advance(self, name: str, share: float) -> None:
        if name in self.shares:
            self.shares[name] = max(self.shares[name], min(share, 1.0))
            self.draw(self.titles.get(self.current, ""))

    def draw(self, label: str) -> None:
        if not self.live:
            return
        done = sum(self.weights[name] * share for name, share in self.shares.items()) / sum(self.weights.values())
        bar = "#" * round(WIDTH * done)
        sys.stderr.write(f"\r[{bar:<{WIDTH}}] {done:4.0%}  {time.monotonic() - self.started:5.0f} s  {label:<24}")
        sys.stderr.flush()
