"""Training of the composition classifier on stored features: both prompts of every video with the video's own label (CVG, dual inversion).

L = -log C(phi(z_t, p+))_y - log C(phi(z_t, p-))_y, training phase (f): p- tells a wrong relation of the same things. A trace of the told
relation in their maps then predicts nothing.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .classifier import SIZES, Classifier, CompositionNetwork, FeaturePlan, ModelIdentity
from .classifier_file import frozen
from .classifier_vision import Backbone
from .labels import Label
from .ranges import check_choice, check_range

NAME = "Train Composition Classifier"
HELD_BACK = 5  # one video in five is not trained on
RIGHT, WRONG = 0, 1  # prompts p+ and p-


@dataclass(frozen=True)
class FeatureSet:
    """Features "n p s r l k f h w" (p: prompts p+ and p-, s: steps, r: things; those that a label lacks are 0) of n videos, fp16.

    labels "n": places of their labels; things "n": how many things each is about; videos "n": which file a view of it comes from.
    """

    features: Tensor
    labels: Tensor
    things: Tensor
    videos: Tensor

    def held_back(self) -> Tensor:
        """bool "n": what is measured and not trained on: of each label every fifth video, one at least, with all its views."""
        chosen = torch.zeros_like(self.labels, dtype=torch.bool)
        for label in self.labels.unique():
            files = self.videos[self.labels == label].unique()
            chosen |= torch.isin(self.videos, files[::HELD_BACK])
        return chosen

    def part(self, which: Tensor) -> "FeatureSet":
        return FeatureSet(self.features[which], self.labels[which], self.things[which], self.videos[which])


@dataclass(frozen=True)
class TrainingPlan:
    """How a classifier is trained on features.

    steps: updates at most. batch: videos in one. rate: AdamW's. patience: measurements (one every `measure_every` updates) without a lower
    loss on the held-back videos, after which it ends; 0: never. dual: learn from p- too; without it the classifier reads traces of words.
    """

    size: str = "small"
    steps: int = 2000
    batch: int = 32
    rate: float = 1e-3
    patience: int = 10
    measure_every: int = 50
    seed: int = 0
    dual: bool = True

    def __post_init__(self) -> None:
        check_choice(NAME, "size", self.size, SIZES)
        for name, low, high in (
            ("steps", 1, 1_000_000),
            ("batch", 1, 4096),
            ("rate", 1e-7, 1),
            ("patience", 0, 10_000),
            ("measure_every", 1, 100_000),
        ):
            check_range(NAME, name, getattr(self, name), low, high)


@dataclass
class History:
    """Loss on the trained and the held-back videos at each measurement, and why it ended."""

    measured: list[dict[str, float]] = field(default_factory=list)
    ended: str = ""


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators start from `seed` within, and are as they were afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Training:
    """Network, optimiser and the best network so far; saved and resumed as one, bit for bit."""

    def __init__(
        self, plan: FeaturePlan, labels: tuple[Label, ...], options: TrainingPlan, device: torch.device, backbone: Backbone | None = None
    ):
        self.options, self.device = options, device
        with own_randomness(options.seed, device):
            self.network = CompositionNetwork(plan, SIZES[options.size], labels, backbone).to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=options.rate, weight_decay=0.05)
        self.step, self.stale, self.best_loss = 0, 0, float("inf")
        self.best = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        self.history = History()

    def save(self, path: Path, fingerprint: str) -> None:
        state = {name: getattr(self, name) for name in ("step", "stale", "best_loss", "best")} | {"measured": self.history.measured}
        state |= {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "fingerprint": fingerprint}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: Path, fingerprint: str) -> bool:
        """Go on from a checkpoint of the same videos and options; False: there is none."""
        if not path.is_file():
            return False
        state = torch.load(path, weights_only=True, map_location=self.device)
        if state["fingerprint"] != fingerprint:
            return False
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.stale, self.best_loss, self.best = (state[name] for name in ("step", "stale", "best_loss", "best"))
        self.history.measured = state["measured"]
        return True

    def update(self, trained: FeatureSet) -> float:
        """One step of AdamW on a batch that (seed, step) alone decide. The classifier learns to do with some of the steps and layers."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.step)
        chosen = torch.randint(len(trained.labels), (self.options.batch,), generator=generator)
        batch = trained.part(chosen)
        steps, layers = trained.features.shape[2], trained.features.shape[4]
        slots = some_of(steps, 0.5, generator)
        heard = torch.zeros(layers, dtype=torch.bool)
        heard[some_of(layers, 0.8, generator)] = True
        self.network.train()
        with own_randomness(self.options.seed * 1_000_003 + self.step, self.device):
            loss = dual_loss(self.network, batch, slots, heard, self.options.dual)
            self.optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate * min(1.0, (self.step + 1) / 50)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def measure(self, loss: float, held_back: FeatureSet) -> None:
        self.network.eval()
        with torch.no_grad():
            slots = list(range(held_back.features.shape[2]))
            kept = float(torch.stack([dual_loss(self.network, part, slots, None, True) for part in batches(held_back)]).mean())
        self.history.measured.append({"step": self.step, "trained": loss, "held_back": kept})
        if kept < self.best_loss:
            self.best_loss, self.stale = kept, 0
            self.best = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        else:
            self.stale += 1


def some_of(count: int, share: float, generator: torch.Generator) -> list[int]:
    """Each of `count` with probability `share`, one at least."""
    drawn = torch.rand(count, generator=generator)
    return [index for index in range(count) if drawn[index] < share] or [int(drawn.argmin())]


def batches(features: FeatureSet, size: int = 64) -> Iterator[FeatureSet]:
    for start in range(0, len(features.labels), size):
        yield features.part(torch.arange(start, min(start + size, len(features.labels))))


def dual_loss(network: CompositionNetwork, batch: FeatureSet, slots: list[int], heard: Tensor | None, dual: bool) -> Tensor:
    """L_CE of both prompts, or of p+ alone, mean over the batch; slots: the steps that are seen, heard: the layers."""
    device = next(network.parameters()).device
    labels, things = batch.labels.to(device), batch.things.to(device)
    heard = None if heard is None else heard.to(device)
    told = (RIGHT, WRONG) if dual else (RIGHT,)
    losses = [functional.nll_loss(network(batch.features[:, prompt].float().to(device), things, slots, heard), labels) for prompt in told]
    return torch.stack(losses).sum()


def train_classifier(
    features: FeatureSet,
    plan: FeaturePlan,
    labels: tuple[Label, ...],
    model: ModelIdentity,
    options: TrainingPlan,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    on_step: Callable[[int], None] = lambda step: None,
    device: torch.device | None = None,
    card: dict[str, Any] | None = None,
    backbone: Backbone | None = None,
) -> Classifier:
    """Train, keep the network with the lowest loss on held-back videos, and measure it; works inside inference mode.

    `on_step` may raise to cut it off: the same call then goes on from `checkpoint`, which is kept until the training is done elsewhere.
    """
    with torch.inference_mode(False), torch.enable_grad():
        features = FeatureSet(*(tensor.clone() for tensor in vars(features).values()))  # tensors of inference mode cannot be trained on
        held_back = features.held_back()
        training = Training(plan, labels, options, device or torch.device("cpu"), backbone)
        told = json.dumps([fingerprint, backbone.name if backbone else "", vars(options) | {"steps": 0, "patience": 0}])
        if checkpoint is not None:
            training.resume(checkpoint, told)
        kept, trained = features.part(held_back), features.part(~held_back)
        while training.step < options.steps and not (options.patience and training.stale >= options.patience):
            on_step(training.step)
            loss = training.update(trained)
            if training.step % options.measure_every == 0 or training.step == options.steps:
                training.measure(loss, kept)
                if checkpoint is not None:
                    training.save(checkpoint, told)
        training.history.ended = "all steps" if training.step >= options.steps else "no longer better"
        training.network.load_state_dict(training.best)
        accuracy = accuracies(training.network, kept, labels)
        counts = {"videos": len(features.videos.unique()), "views": len(features.labels), "held_back": int(held_back.sum())}
        told_of = {**(card or {}), **counts, "dual_prompt": options.dual, "accuracy": accuracy, "training": vars(training.history)}
        return frozen(training.network.cpu(), options.size, plan, labels, model, told_of)


def accuracies(network: CompositionNetwork, kept: FeatureSet, labels: tuple[Label, ...]) -> dict[str, Any]:
    """Share of right answers on p+ and on p- (alike where no words leak), with one step or one layer alone, and the confusion matrix.

    chance: of a guess among the rivals of each label. confusion: [true][answered], counts over both prompts.
    """
    network.eval()
    steps, layers = kept.features.shape[2], kept.features.shape[4]

    def share(prompt: int | None = None, slots: list[int] | None = None, layer: int | None = None) -> float:
        return round(float((answers(network, kept, prompt, slots, layer) == targets(kept, prompt)).float().mean()), 4)

    confusion = torch.zeros(len(labels), len(labels), dtype=torch.long)
    for true, answered in zip(targets(kept, None).tolist(), answers(network, kept, None, None, None).tolist()):
        confusion[true, answered] += 1
    rivals = [sum(other.entities == labels[place].entities for other in labels) for place in kept.labels.tolist()]
    right, wrong = share(RIGHT), share(WRONG)
    return {
        "right_prompt": right,
        "wrong_prompt": wrong,
        "leakage_gap": round(right - wrong, 4),
        "chance": round(sum(1 / count for count in rivals) / len(rivals), 4),
        "by_sigma": [share(slots=[slot]) for slot in range(steps)],
        "by_layer": [share(layer=layer) for layer in range(layers)],
        "confusion": confusion.tolist(),
    }


def targets(kept: FeatureSet, prompt: int | None) -> Tensor:
    return kept.labels if prompt is not None else kept.labels.repeat(2)


@torch.no_grad()
def answers(network: CompositionNetwork, kept: FeatureSet, prompt: int | None, slots: list[int] | None, layer: int | None) -> Tensor:
    """The likeliest label of every video, "n"; without a `prompt` of those told p+ and then of those told p-, "2n"."""
    device = next(network.parameters()).device
    slots = list(range(kept.features.shape[2])) if slots is None else slots
    heard = None if layer is None else (torch.arange(kept.features.shape[4]) == layer).to(device)
    found = [
        network(part.features[:, told].float().to(device), part.things.to(device), slots, heard).argmax(-1).cpu()
        for told in ((RIGHT, WRONG) if prompt is None else (prompt,))
        for part in batches(kept)
    ]
    return torch.cat(found)
