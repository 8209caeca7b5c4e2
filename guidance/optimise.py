"""The optimiser loop that all objectives share: edit the latent until the captured attention does what they ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import GuidanceBudget
from .objective import Objective, ObjectiveLoss, shared_phrases
from .report import IterationRecord, LoopHistory, ObjectiveRecord, finite

Capture = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OptimisedLatent:
    """The edited latent, in the dtype and shape of the one given, and how it came about."""

    z: Tensor
    history: LoopHistory


def optimise_latent(
    z: Tensor,
    capture: Capture,
    objectives: Sequence[Objective],
    budget: GuidanceBudget,
    fps: float = 16.0,
    update_mask: Tensor | None = None,
    on_iteration: Callable[[IterationRecord], None] | None = None,
) -> OptimisedLatent:
    """z* = z + argmin_delta L(A(z + delta)), TempoControl section 3: at most l AdamW iterations on a delta that starts at zero.

    `z` "b c f h w". `capture` gives the attention maps "b g f h w" of a latent, g in the order of `shared_phrases(objectives)`; it is
    called with gradients on, and once without if the budget checks the last update. `update_mask` (a denoise mask, broadcast to z)
    multiplies the delta. Gradients must be enabled by the caller. `on_iteration` is called after each evaluation and may raise to cancel.

    Per sample: it stops as soon as every objective is satisfied (before a backward pass is spent), when `patience` evaluations brought
    no lower loss, or when loss or gradient is not finite, which leaves it unedited in this step. The best latent seen is kept.
    """
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise RuntimeError("optimise_latent: gradients are off here; call it with inference mode off and gradients enabled")
    # clone, since tensors made under inference mode cannot be saved for the backward pass
    z = z.detach().clone()
    free = torch.ones((), device=z.device) if update_mask is None else update_mask.detach().clone().to(z.device)
    delta = torch.zeros_like(z, dtype=torch.promote_types(z.dtype, torch.float32)).requires_grad_()
    loudest = max(objective.strength for objective in objectives)
    optimiser = torch.optim.AdamW([delta], lr=budget.step_size * loudest)
    _, places = shared_phrases(objectives)
    samples = _Samples(z, delta)
    records: list[IterationRecord] = []
    forwards = backwards = updates = 0
    say: Tensor | None = None

    for iteration in range(budget.iterations + (budget.check_last and budget.iterations > 0)):
        checking = iteration == budget.iterations
        with torch.set_grad_enabled(not checking):
            maps = capture((z + delta * free).to(z.dtype))
            losses = [objective.loss(maps[:, list(phrases)], fps) for objective, phrases in zip(objectives, places, strict=True)]
        forwards += 1
        totals = torch.stack([loss.total for loss in losses])
        samples.drop(~totals.detach().isfinite().all(0), "loss not finite")
        samples.finish(torch.stack([loss.satisfied for loss in losses]).all(0), "satisfied", delta, iteration)
        if say is not None:
            samples.compare((say * totals.detach()).sum(0), delta, iteration)
            samples.stop_stale(budget.patience)
        if samples.moving.any() and not checking:
            gradients = [_gradient(total.sum(), delta, index < len(losses) - 1) for index, total in enumerate(totals)]
            backwards += len(gradients)
            scales = _equal_say(gradients, [objective.strength / loudest for objective in objectives])
            gradient = torch.stack([scale * part for scale, part in zip(scales, gradients, strict=True)]).sum(0)
            samples.drop(~gradient.flatten(1).isfinite().all(1), "gradient not finite")
            if say is None:
                # What is best is judged by the weights of the first evaluation: a sum whose weights change cannot be compared.
                say = torch.nan_to_num(torch.stack([scale.flatten() for scale in scales]))
                samples.compare((say * totals.detach()).sum(0), delta, iteration)
            _update(optimiser, delta, gradient, samples.spread(samples.moving))
            updates += 1
            for group in optimiser.param_groups:
                group["lr"] *= budget.growth
        del maps, totals
        records.append(_record(iteration, objectives, losses, samples.moving & (not checking)))
        if on_iteration is not None:
            on_iteration(records[-1])
        if not samples.moving.any():
            break

    samples.trust_last(delta, updates)
    edit = samples.best_delta * free
    edited = (z + edit).to(z.dtype)
    edited = torch.where(samples.spread(samples.kept > 0), edited, z)
    relative = (edited - z).float().flatten(1).norm(dim=1) / z.float().flatten(1).norm(dim=1).clamp_min(1e-12)
    history = LoopHistory(tuple(records), samples.kept.tolist(), finite(relative.tolist()), samples.reasons(), forwards, backwards)
    return OptimisedLatent(edited, history)


class _Samples:
    """Where each sample of the batch stands; all tensors "b" but the best delta."""

    def __init__(self, z: Tensor, delta: Tensor) -> None:
        count = z.shape[0]
        self.moving = torch.ones(count, dtype=torch.bool, device=z.device)
        self.kept = torch.zeros(count, dtype=torch.long, device=z.device)
        self.stale = torch.zeros(count, dtype=torch.long, device=z.device)
        self.best_merit = torch.full((count,), torch.inf, device=z.device, dtype=delta.dtype)
        self.best_delta = torch.zeros_like(delta, requires_grad=False)
        self._reasons = ["iterations"] * count

    def spread(self, per_sample: Tensor) -> Tensor:
        """"b" -> "b 1 1 1 1", to meet a latent."""
        return per_sample.view(-1, *[1] * (self.best_delta.ndim - 1))

    def reasons(self) -> list[str]:
        return self._reasons

    def drop(self, bad: Tensor, reason: str) -> None:
        """These samples stay unedited in this step."""
        bad = self._stop(bad, reason)
        self.best_delta = self.best_delta.masked_fill(self.spread(bad), 0)
        self.kept = self.kept.masked_fill(bad, 0)

    def finish(self, satisfied: Tensor, reason: str, delta: Tensor, updates: int) -> None:
        self._keep(self._stop(satisfied, reason), delta, updates)

    def compare(self, merit: Tensor, delta: Tensor, updates: int) -> None:
        """Keep the delta of every moving sample whose merit (weighted loss) is its lowest so far."""
        better = self.moving & (merit < self.best_merit)
        self.best_merit = torch.where(better, merit.to(self.best_merit), self.best_merit)
        self.stale = torch.where(better, 0, self.stale + 1)
        self._keep(better, delta, updates)

    def stop_stale(self, patience: int) -> None:
        if patience:
            self._stop(self.stale >= patience, "patience")

    def trust_last(self, delta: Tensor, updates: int) -> None:
        """An update that nothing has measured is kept where the loss was still falling."""
        self._keep(self.moving & (self.stale == 0), delta, updates)

    def _stop(self, which: Tensor, reason: str) -> Tensor:
        which = which & self.moving
        for index in which.nonzero().flatten().tolist():
            self._reasons[index] = reason
        self.moving = self.moving & ~which
        return which

    def _keep(self, which: Tensor, delta: Tensor, updates: int) -> None:
        self.best_delta = torch.where(self.spread(which), delta.detach(), self.best_delta)
        self.kept = self.kept.masked_fill(which, updates)


def _gradient(loss: Tensor, delta: Tensor, again: bool) -> Tensor:
    return torch.autograd.grad(loss, delta, retain_graph=again)[0]


def _equal_say(gradients: Sequence[Tensor], strengths: Sequence[float]) -> list[Tensor]:
    """Factors "b 1 1 1 1" that give every objective's gradient, per sample, the same RMS (their mean) times its strength."""
    rms = [gradient.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]
    common = torch.stack(rms).mean(0)
    return [torch.where(own > 0, strength * common / own, 0.0) for own, strength in zip(rms, strengths, strict=True)]


def _update(optimiser: torch.optim.Optimizer, delta: Tensor, gradient: Tensor, moving: Tensor) -> None:
    """One AdamW iteration; its momentum and weight decay must not move a sample that has stopped."""
    with torch.no_grad():
        before = delta.clone()
        delta.grad = torch.where(moving, gradient, 0.0)
        optimiser.step()
        delta.copy_(torch.where(moving, delta, before))


def _record(iteration: int, objectives: Sequence[Objective], losses: Sequence[ObjectiveLoss], moving: Tensor) -> IterationRecord:
    return IterationRecord(
        iteration,
        tuple(
            ObjectiveRecord(
                objective.name,
                finite(loss.total.tolist()),
                {name: finite(term.tolist()) for name, term in loss.terms.items()},
                loss.satisfied.tolist(),
                {name: finite(trace.tolist()) for name, trace in loss.traces.items()},
            )
            for objective, loss in zip(objectives, losses, strict=True)
        ),
        moving.tolist(),
    )
