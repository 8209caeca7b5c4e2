"""How benchmarks measure: the same work of several kinds in turns, ratios of neighbours in time, and the most memory that each holds."""

import json
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], Any]
PLAIN = "plain"  # the kind that all others are compared with


def interleaved(kinds: Mapping[str, Work], repeats: int, on_gpu: bool) -> dict[str, list[float]]:
    """Seconds of each kind, `repeats` of each: to and fro, so that other work on the machine touches all alike; a first round warms up.

    Without a GPU these are the processor's own seconds, of all threads together: a busy machine disturbs them least.
    """
    clock = time.perf_counter if on_gpu else time.process_time
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for repeat in range(repeats + 1):
        for kind in list(kinds)[:: 1 if repeat % 2 else -1]:
            began = clock()
            kinds[kind]()
            if on_gpu:
                torch.cuda.synchronize()
            if repeat:
                seconds[kind].append(clock() - began)
    return seconds


def ratios(plain: list[float], other: list[float], digits: int = 5) -> dict[str, Any]:
    """Of neighbours in time: their median, and the quartiles as spread."""
    values = sorted(after / before for before, after in zip(plain, other, strict=True))
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": round(statistics.median(values), digits), "spread": [round(quartiles[0], digits), round(quartiles[2], digits)]}


def milliseconds(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {kind: round(1000 * statistics.median(values), 3) for kind, values in seconds.items()}


def peak_bytes(work: Work, on_gpu: bool) -> int:
    """The most memory that `work` holds at once beyond what was there before: on a GPU as its allocator counts, else in tensors."""
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with HeldTensors() as held:
        work()
    return held.most


class HeldTensors(TorchDispatchMode):
    """Bytes of the tensors that operations return while they are held; what a kernel needs inside itself is not seen.

    Exact and the same on every run, as the memory of a process is not, which keeps what it once had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        known = {storage_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # what came in and was not made here (weights, inputs) was there before
            if isinstance(leaf, torch.Tensor) and storage_key(leaf) not in known and storage_key(leaf) not in self._held:
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._held[key] = weakref.finalize(storage, self._release, key, size)
        self.now += size
        self.most = max(self.most, self.now)

    def _release(self, key: int, size: int) -> None:
        del self._held[key]
        self.now -= size


def storage_key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def show(result: Mapping[str, Any], one_line: bool) -> None:
    """The result of a benchmark as JSON on standard output."""
    sys.stdout.write(json.dumps(result, indent=None if one_line else 2) + "\n")
