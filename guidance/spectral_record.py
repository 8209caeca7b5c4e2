"""What Spectral Homeostasis saw in one video: every diagnostic of the paper's appendix per attention call, and their sums per video."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .frame_operators import Observe, density, row_entropy, spectral_entropy, spectrum
from .report import finite

ACTIVE = 0.03  # |gamma - 1| above this is an active call, A.1
DEEP = 0.5  # depth from which a layer is deep, figure C
HIGH_TENSION = 0.3  # A.2
DEPTH_BUCKETS = 10  # A.4
COUNTS = ("layer", "step", "row")
PER_HEAD = ("gamma", "tension_heads_before", "tension_heads_after")
METRICS = (
    "tension", "row_entropy", "von_neumann", "effective_rank", "lambda_1",
    "self_retention", "cross_frame", "gini", "balance", "head_spread",
)


def gini(operators: Tensor) -> Tensor:
    """sum_j (2 j - F - 1) a_(j) / F of each row, ascending, j = 1 .. F (C.4): "b h p f g" -> "b h". 0: uniform; (F - 1)/F: one frame."""
    frames = operators.shape[-1]
    ranks = 2 * torch.arange(1, frames + 1, device=operators.device, dtype=operators.dtype) - frames - 1
    return (operators.sort(-1).values @ ranks).mean((-2, -1)) / frames


def future_past_balance(operators: Tensor) -> Tensor:
    """Mean mass on later frames less that on earlier ones (figure L): "b h p f g" -> "b h". Below 0: the past weighs more."""
    return (operators.triu(1) - operators.tril(-1)).sum(-1).mean((-2, -1))


def diagnostics(operators: Tensor) -> dict[str, Tensor]:
    """All of METRICS "b h" of "b h p f g", each head by itself; `head_spread` is the same number in every head. Also "eigenvalues" "b h f".

    effective_rank exp(-sum lambda log lambda) in 1..F (C.3), lambda_1 the largest eigenvalue of rho (F.1), self_retention the mean diagonal
    (C.2), cross_frame 1 - that (C.5), head_spread the deviation of the tension over heads (figure K).
    """
    eigenvalues = spectrum(density(operators))
    frames = operators.shape[-1]
    von_neumann, rows = spectral_entropy(eigenvalues), row_entropy(operators)
    self_retention = operators.diagonal(dim1=-2, dim2=-1).mean((-2, -1))
    tension = rows - von_neumann
    return {
        "tension": tension,
        "row_entropy": rows,
        "von_neumann": von_neumann,
        "effective_rank": frames**von_neumann,
        "lambda_1": eigenvalues[..., 0],
        "self_retention": self_retention,
        "cross_frame": 1 - self_retention,
        "gini": gini(operators),
        "balance": future_past_balance(operators),
        "head_spread": tension.std(1, unbiased=False, keepdim=True).expand_as(tension),
        "eigenvalues": eigenvalues,
    }


class SpectralRecord:
    """The calls of one video in the order in which they came, as columns; one call is one batch row of one attention call.

    Columns, read by `record[name]`: `layer`, `step` (counts the different sigmas), `row` (which of the calls of that layer at that sigma:
    CFG rows, batched or one after the other), `sigma`, `tau_eff`: "c"; for each of METRICS `name_before` and `name_after` "c", means over
    heads; `gamma`, `tension_heads_before`, `tension_heads_after` "c h"; `eigenvalues_before`, `eigenvalues_after` "c f", means over heads.
    Context windows may differ in frames: shorter spectra then end in zeros, which is what they are.
    Derived, "c": `depth` 0..1, `strength` = mean over heads of |gamma - 1|, `active`, `deep`, `reduction` = |T| before - |T| after,
    `per_head`: whether gamma differs among the heads.
    `operators` "l f g": the mean operator of each layer, before correction, NaN where none was seen; of the number of frames that most
    calls had. A run without a record measures nothing for it. About 0.5 kB per call.
    """

    def __init__(self) -> None:
        self.layers = 0
        self._rows: dict[str, list[Any]] = {}
        self._stacked: dict[str, np.ndarray] = {}
        self._operators: dict[tuple[int, int], tuple[np.ndarray, int]] = {}  # by frames, layer
        self._steps: dict[float, int] = {}
        self._seen: Counter[tuple[int, int]] = Counter()

    def __len__(self) -> int:
        return len(self._rows.get("layer", ()))

    def add(self, layer: int, layers: int, sigma: float, tau_eff: float, before: Tensor, after: Tensor, gamma: Tensor) -> None:
        """Operators "b h p f g" before and after the correction and gamma "b h" of one attention call: one call per batch row."""
        self._check(before, layers)
        self.layers = layers
        self._stacked.clear()
        step = self._steps.setdefault(sigma, len(self._steps))
        first = diagnostics(before)
        sides = {"before": _arrays(first), "after": _arrays(first if after is before else diagnostics(after))}
        gamma_rows = _array(gamma)
        for row in range(len(gamma_rows)):
            self._append(layer=layer, step=step, row=self._seen[layer, step], sigma=sigma, tau_eff=tau_eff, gamma=gamma_rows[row])
            self._seen[layer, step] += 1
            for side, values in sides.items():
                self._append(**{f"{metric}_{side}": values[metric][row].mean() for metric in METRICS})
                self._append(**{f"tension_heads_{side}": values["tension"][row], f"eigenvalues_{side}": values["eigenvalues"][row].mean(0)})
        place = before.shape[-1], layer
        total, count = self._operators.get(place, (0.0, 0))
        self._operators[place] = (total + _array(before.mean((1, 2)).sum(0)), count + len(gamma_rows))

    def __getitem__(self, column: str) -> np.ndarray:
        if column in _DERIVED:
            return _DERIVED[column](self)
        if column not in self._stacked:
            self._stacked[column] = _stacked(self._rows[column]) if len(self) else np.zeros((0, 1) if column in PER_HEAD else 0)
        return self._stacked[column]

    @property
    def operators(self) -> np.ndarray:
        mean = np.full((self.layers, self.frames, self.frames), np.nan, dtype=np.float32)
        for (frames, layer), (total, count) in self._operators.items():
            if frames == self.frames:
                mean[layer] = total / count
        return mean

    @property
    def frames(self) -> int:
        """Of most calls; 0 where there was none."""
        calls: Counter[int] = Counter()
        for (frames, _), (_, count) in self._operators.items():
            calls[frames] += count
        return max(calls, key=lambda frames: (calls[frames], frames), default=0)

    def summary(self) -> dict[str, Any]:
        """The video in plain numbers: A.1 to A.5, B.2 and the means of figure C over deep calls. None where there was no such call."""
        active, before, after = self["active"], np.abs(self["tension_before"]), np.abs(self["tension_after"])
        signed, gamma = self["tension_before"][active], self["gamma"].mean(1)[active]
        bucket = np.minimum((self["layer"] * DEPTH_BUCKETS // max(self.layers, 1)).astype(int), DEPTH_BUCKETS - 1)
        relative = [_relative(before[bucket == index], after[bucket == index]) for index in range(DEPTH_BUCKETS)]
        return {
            "calls": len(self),
            "active_share": _mean(active),
            "tension_active": {"before": _mean(before[active]), "after": _mean(after[active])},
            "reduced_share": _mean(self["reduction"][active] >= 0),
            "reduction_active": _mean(self["reduction"][active]),
            "high_tension_share": {"before": _mean(before[active] > HIGH_TENSION), "after": _mean(after[active] > HIGH_TENSION)},
            "fragmented_share": _mean(signed < 0),
            "gamma_over_mixed": {"mean": _mean(gamma[signed > 0]), "std": _std(gamma[signed > 0])},
            "gamma_fragmented": {"mean": _mean(gamma[signed < 0]), "std": _std(gamma[signed < 0])},
            "wrong_sign": int(wrong_sign(self).sum()),
            "relative_reduction_by_depth": relative,
            "deep": {
                metric: {side: _mean(self[f"{metric}_{side}"][self["deep"]]) for side in ("before", "after")}
                for metric in ("abs_tension", *METRICS)
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, to six decimals: the summary, every column as lists, the operators. `from_dict` reads it back."""
        columns = {name: np.asarray(self[name], dtype=np.float64).round(6).tolist() for name in self._rows}
        stored = {"layers": self.layers, "operator_counts": self._counts, "operators": self.operators.astype(np.float64).round(6).tolist()}
        return finite({"summary": self.summary(), **stored, "calls": columns})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SpectralRecord":
        columns = {name: np.array(column, dtype=np.float64) for name, column in values["calls"].items()}
        counts = {name: column.astype(np.int64) for name, column in columns.items() if name in COUNTS}
        operators = np.array(values["operators"], dtype=np.float64)
        return cls._from_arrays({**columns, **counts}, int(values["layers"]), operators, values["operator_counts"])

    def to_json(self, indent: int | None = None) -> str:
        """Strict JSON: numbers that are not finite become null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_npz(self, path: str | PathLike[str]) -> None:
        """Every column as it is, compressed; `from_npz` reads it back."""
        columns: dict[str, Any] = {name: self[name] for name in self._rows}
        with open(path, "wb") as file:
            np.savez_compressed(file, layers=self.layers, operators=self.operators, operator_counts=self._counts, **columns)

    @classmethod
    def from_npz(cls, path: str | PathLike[str]) -> "SpectralRecord":
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored if name not in ("layers", "operators", "operator_counts")}
            return cls._from_arrays(columns, int(stored["layers"]), stored["operators"], stored["operator_counts"])

    @classmethod
    def _from_arrays(cls, columns: dict[str, np.ndarray], layers: int, operators: np.ndarray, counts: Sequence[int]) -> "SpectralRecord":
        record = cls()
        record.layers = layers
        frames = operators.shape[-1]
        record._operators = {(frames, layer): (operators[layer] * count, int(count)) for layer, count in enumerate(counts) if count}
        record._rows = {name: list(values) for name, values in columns.items()}
        record._steps = {float(sigma): int(step) for sigma, step in zip(record["sigma"], record["step"])} if len(record) else {}
        record._seen = Counter(zip(record["layer"].tolist(), record["step"].tolist()))
        return record

    @property
    def _counts(self) -> list[int]:
        return [self._operators.get((self.frames, layer), (0.0, 0))[1] for layer in range(self.layers)]

    def _append(self, **values: Any) -> None:
        for name, value in values.items():
            self._rows.setdefault(name, []).append(np.asarray(value))

    def _check(self, operators: Tensor, layers: int) -> None:
        if not len(self):
            return
        here, known = (layers, operators.shape[1]), (self.layers, self._rows["gamma"][0].shape[0])
        if here != known:
            raise ValueError(f"SpectralRecord: layers, heads = {here}: this record holds {known}; make one per model")


class BatchRecord:
    """The calls of one run, apart by the videos that are sampled in one batch."""

    def __init__(self) -> None:
        self.videos: list[SpectralRecord] = []

    def observe(self, layer: int, layers: int, sigma: float, tau_eff: float, videos: int) -> Observe:
        """What `SpectralHomeostasis.regulate` is to show this call to; its row r is one of video r % `videos`."""
        self.videos += [SpectralRecord() for _ in range(videos - len(self.videos))]

        def add(before: Tensor, after: Tensor, gamma: Tensor) -> None:
            for video, record in enumerate(self.videos):
                own = before[video::videos]
                record.add(layer, layers, sigma, tau_eff, own, own if after is before else after[video::videos], gamma[video::videos])

        return add

    def to_dict(self) -> dict[str, Any]:
        return {"videos": [record.to_dict() for record in self.videos]}


def wrong_sign(record: SpectralRecord) -> np.ndarray:
    """Calls "c" whose gamma went the wrong way in any head: against the mean tension, or with gamma per head against that head's own."""
    followed = np.where(record["per_head"][:, None], record["tension_heads_before"], record["tension_before"][:, None])
    return np.any((record["gamma"] - 1) * followed < 0, axis=1)


_DERIVED: dict[str, Callable[[SpectralRecord], np.ndarray]] = {
    "depth": lambda record: record["layer"] / max(record.layers - 1, 1),
    "deep": lambda record: record["depth"] >= DEEP,
    "strength": lambda record: np.abs(record["gamma"] - 1).mean(1),
    "per_head": lambda record: np.ptp(record["gamma"], axis=1) > 0,
    "active": lambda record: record["strength"] > ACTIVE,
    "reduction": lambda record: np.abs(record["tension_before"]) - np.abs(record["tension_after"]),
    "abs_tension_before": lambda record: np.abs(record["tension_before"]),
    "abs_tension_after": lambda record: np.abs(record["tension_after"]),
}


def _arrays(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """To the CPU in two transfers, not one per metric."""
    stacked = _array(torch.stack([values[metric] for metric in METRICS]))
    return {**dict(zip(METRICS, stacked)), "eigenvalues": _array(values["eigenvalues"])}


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    longest = max(row.size for row in rows)
    return np.stack([row if row.size == longest else np.pad(row, (0, longest - row.size)) for row in rows])


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _std(values: np.ndarray) -> float | None:
    return float(values.std()) if values.size else None


def _relative(before: np.ndarray, after: np.ndarray) -> float | None:
    return float(1 - after.mean() / before.mean()) if before.size and before.mean() else None
