"""Plain against guided runs of Spectral Homeostasis: which videos and which calls got better, by how much, and whether by chance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from .spectral_record import SpectralRecord

# Figure C and table 2: which way is better. What moves these need not be visible; Gini and self-retention rise where attention sharpens.
BETTER = {"abs_tension": -1, "von_neumann": 1, "effective_rank": 1, "self_retention": 1, "cross_frame": -1, "gini": 1, "lambda_1": -1}
EXACT_SIGNED_RANKS = 50  # pairs up to which Wilcoxon's distribution is counted out
EXACT_RANK_ORDERS = 9  # points up to which all orders are counted out


class SignTest(NamedTuple):
    """Of n differences that are not 0, `better` are above 0; p two-sided."""

    better: int
    n: int
    p: float


class RankTest(NamedTuple):
    """A rank statistic and its two-sided p."""

    statistic: float
    p: float


def sign_test(differences: np.ndarray) -> SignTest:
    """Exact two-sided binomial sign test, ties dropped (A.5, C): p = 2 P(X >= max(better, n - better)), X of n fair coins, at most 1."""
    better, n = int((differences > 0).sum()), int((differences != 0).sum())
    tail = sum(math.comb(n, count) for count in range(max(better, n - better), n + 1))
    return SignTest(better, n, min(1.0, 2 * tail / 2**n))


def cohens_d(differences: np.ndarray) -> float:
    """Paired Cohen's d: mean / standard deviation (n - 1) of the differences. NaN for fewer than two; 0 differences everywhere give 0."""
    if len(differences) < 2:
        return math.nan
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    return mean / deviation if deviation else (math.copysign(math.inf, mean) if mean else 0.0)


def wilcoxon(differences: np.ndarray) -> RankTest:
    """Wilcoxon's signed-rank test, zeros dropped, ties at mean rank (figure G): W+ = the sum of ranks above 0.

    Up to 50 pairs counted out exactly, ties included; beyond, normal with the variance of the ranks, without continuity correction.
    """
    kept = differences[differences != 0]
    if not len(kept):
        return RankTest(0.0, 1.0)
    ranks = mean_ranks(np.abs(kept))
    statistic, half = float(ranks[kept > 0].sum()), float(ranks.sum() / 2)
    if len(kept) > EXACT_SIGNED_RANKS:
        z = (statistic - half) / math.sqrt(float((ranks**2).sum()) / 4)
        return RankTest(statistic, math.erfc(abs(z) / math.sqrt(2)))
    doubled = np.rint(2 * ranks).astype(int)
    share = np.zeros(doubled.sum() + 1)  # of sign patterns, by twice their W+
    share[0] = 1.0
    for rank in doubled:
        share[rank:] = (share[rank:] + share[:-rank]) / 2
        share[:rank] /= 2
    tail = min(2 * statistic, 2 * (2 * half - statistic))
    return RankTest(statistic, min(1.0, 2 * float(share[: round(tail) + 1].sum())))


def spearman(x: np.ndarray, y: np.ndarray) -> RankTest:
    """Spearman's rank correlation (figure M): Pearson's of mean ranks. NaN and p = 1 where x or y is constant.

    Up to 9 points p counts all orders of y; the t approximation that is usual elsewhere is too sure of itself there (8 points at 0.929:
    0.0022, not 0.0009). Beyond: normal, z = rho sqrt(n - 1).
    """
    a, b = mean_ranks(x) - (len(x) + 1) / 2, mean_ranks(y) - (len(y) + 1) / 2
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    if not scale:
        return RankTest(math.nan, 1.0)
    rho = float(a @ b) / scale
    if len(x) > EXACT_RANK_ORDERS:
        return RankTest(rho, math.erfc(abs(rho) * math.sqrt((len(x) - 1) / 2)))
    orders = b[np.array(list(permutations(range(len(b)))))] @ a
    return RankTest(rho, float((np.abs(orders) >= abs(rho) * scale - 1e-9).mean()))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values at the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


@dataclass(frozen=True)
class PairedCalls:
    """Calls of guided videos beside the calls of the plain ones with the same layer, noise level and row (figure G's key); arrays over
    calls "c". By noise level and not by step: a run whose span begins later counts its steps from there.

    Read columns of either run by `plain(name)` and `guided(name)`: what the run's attention was, so `name_after` of its record.
    """

    video: np.ndarray
    plains: tuple[SpectralRecord, ...]
    guideds: tuple[SpectralRecord, ...]
    plain_rows: np.ndarray
    guided_rows: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def plain(self, metric: str) -> np.ndarray:
        return self._column(self.plains, f"{metric}_after", self.plain_rows)

    def guided(self, metric: str) -> np.ndarray:
        return self._column(self.guideds, f"{metric}_after", self.guided_rows)

    def of_guided(self, column: str) -> np.ndarray:
        """A column of the guided records by its full name: layer, step, tau_eff, strength, active, deep, abs_tension_before, ..."""
        return self._column(self.guideds, column, self.guided_rows)

    def improvement(self, metric: str) -> np.ndarray:
        """Guided less plain, signed so that above 0 is better (BETTER)."""
        return BETTER[metric] * (self.guided(metric).astype(np.float64) - self.plain(metric))

    def _column(self, records: Sequence[SpectralRecord], column: str, rows: np.ndarray) -> np.ndarray:
        parts = [record[column][rows[self.video == video]] for video, record in enumerate(records)]
        return np.concatenate(parts) if parts else np.zeros(0)


def paired_calls(plains: Sequence[SpectralRecord], guideds: Sequence[SpectralRecord]) -> PairedCalls:
    """Match the calls of each video's plain and guided run; calls that only one of them has are left out.

    Raises ValueError where the two lists differ in length, or a pair in layers, heads or frames, or shares no call: those were not runs of
    one model, latent and schedule.
    """
    if len(plains) != len(guideds):
        raise ValueError(f"paired_calls: {len(plains)} plain and {len(guideds)} guided videos: each needs its partner")
    videos, plain_rows, guided_rows = [], [], []
    for video, (plain, guided) in enumerate(zip(plains, guideds)):
        has, have = _shape(plain), _shape(guided)
        if has != have:
            raise ValueError(f"paired_calls: video {video}: plain has {has}, guided {have}; record both runs with one model and latent")
        place = {key: index for index, key in enumerate(_keys(plain))}
        matched = [(place[key], index) for index, key in enumerate(_keys(guided)) if key in place]
        if not matched:
            raise ValueError(f"paired_calls: video {video}: no call in common; record both runs with one schedule and sampler")
        videos += [video] * len(matched)
        plain_rows += [pair[0] for pair in matched]
        guided_rows += [pair[1] for pair in matched]
    return PairedCalls(np.array(videos, int), tuple(plains), tuple(guideds), np.array(plain_rows, int), np.array(guided_rows, int))


@dataclass(frozen=True)
class VideoTest:
    """One metric of videos, each the mean of its deep calls (figure C); `better` of `n` moved the good way, d is signed like the metric."""

    plain: float
    guided: float
    better: int
    n: int
    p: float
    d: float


def video_tests(pairs: PairedCalls, metrics: Sequence[str] = tuple(BETTER)) -> dict[str, VideoTest]:
    """Figure C and table 2: sign test and Cohen's d across videos."""
    tests = {}
    for metric in metrics:
        plain, guided = video_means(pairs, pairs.plain(metric)), video_means(pairs, pairs.guided(metric))
        sign = sign_test(BETTER[metric] * (guided - plain))
        tests[metric] = VideoTest(float(plain.mean()), float(guided.mean()), *sign, cohens_d(guided - plain))
    return tests


def within_call_test(guideds: Sequence[SpectralRecord]) -> SignTest:
    """A.5: does |T| fall within the active calls of each video, in the mean? Videos without an active call count as ties."""
    return sign_test(np.array([video["reduction"][video["active"]].mean() if video["active"].any() else 0.0 for video in guideds]))


def video_means(pairs: PairedCalls, values: np.ndarray) -> np.ndarray:
    """Mean of "c" over the deep calls of each video: "v"."""
    deep = pairs.of_guided("deep")
    return np.array([values[deep & (pairs.video == video)].mean() for video in range(len(pairs.plains))])


def video_effects(pairs: PairedCalls, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Figure J: Cohen's d of the improvement over the deep calls of each video, and its baseline |T|; by rising baseline: "v", "v"."""
    improvement, deep = pairs.improvement(metric), pairs.of_guided("deep")
    baseline = video_means(pairs, pairs.plain("abs_tension"))
    effect = np.array([cohens_d(improvement[deep & (pairs.video == video)]) for video in range(len(baseline))])
    order = np.argsort(baseline, kind="stable")
    return effect[order], baseline[order]


@dataclass(frozen=True)
class Bin:
    """Improvement of the calls in one bin of a dose: mean, its standard error, and Cohen's d with its 95 % half-width."""

    dose: float
    calls: int
    mean: float
    error: float
    d: float
    d_half_width: float


def dose_response(dose: np.ndarray, improvement: np.ndarray, bins: int = 8) -> list[Bin]:
    """Figures I and M: quantile bins of `dose` "c" and the improvement "c" in each; bins without calls (many equal doses) are left out."""
    edges = np.quantile(dose, np.linspace(0, 1, bins + 1)) if len(dose) else np.zeros(bins + 1)
    inside = np.searchsorted(edges[1:-1], dose, side="right")
    return [_bin(dose[inside == index], improvement[inside == index]) for index in range(bins) if (inside == index).any()]


def trend(bins: Sequence[Bin], value: Callable[[Bin], float] = lambda of: of.mean) -> RankTest:
    """Spearman's correlation of the bins' doses with their mean improvement (figure M)."""
    return spearman(np.array([of.dose for of in bins]), np.array([value(of) for of in bins]))


def cell_means(layer: np.ndarray, step: np.ndarray, values: np.ndarray, layers: int, steps: int) -> np.ndarray:
    """Mean of "c" in each cell: "layers steps", NaN where there is none (figures D and H)."""
    cell = layer.astype(int) * steps + step.astype(int)
    counts = np.bincount(cell, minlength=layers * steps)
    totals = np.bincount(cell, weights=values.astype(np.float64), minlength=layers * steps)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan).reshape(layers, steps)


def _bin(dose: np.ndarray, improvement: np.ndarray) -> Bin:
    calls, d = len(dose), cohens_d(improvement)
    error = float(improvement.std(ddof=1)) / math.sqrt(calls) if calls > 1 else math.nan
    half_width = 1.96 * math.sqrt(1 / calls + d**2 / (2 * calls))  # the usual large-sample variance of a paired d
    return Bin(float(dose.mean()), calls, float(improvement.mean()), error, d, half_width)


def _shape(record: SpectralRecord) -> str:
    return f"{record.layers} layers, {record['gamma'].shape[1]} heads, {record.frames} frames"


def _keys(record: SpectralRecord) -> list[tuple[float, ...]]:
    """Sigmas to the six decimals of a written record."""
    return list(zip(record["layer"].tolist(), record["sigma"].round(6).tolist(), record["row"].tolist()))
