"""The record of attention calls: each diagnostic against loops and known cases, the sums per video, and reading back."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from wan_conductor.guidance.frame_operators import spectral_tension
from wan_conductor.guidance.homeostasis import SpectralHomeostasis
from wan_conductor.guidance.spectral_record import METRICS, BatchRecord, SpectralRecord, diagnostics, future_past_balance, gini

FRAMES, POSITIONS, HEADS, WIDTH, LAYERS = 5, 4, 3, 4, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def random_operators(batch=2, scale=2.0):
    return (torch.randn(batch, HEADS, POSITIONS, FRAMES, FRAMES, dtype=torch.float64) * scale).softmax(-1)


def one(rows):
    return torch.as_tensor(rows, dtype=torch.float64)[None, None, None]


def recorded(method=None, sigmas=(0.99, 0.9, 0.8), passes=2, layers=LAYERS, seed=0, drift=0.0):
    """A run of random attention: one call per CFG pass, as when the host does not batch them. `drift` moves the queries of a second run."""
    method = method or SpectralHomeostasis(tau=1.0)
    generator, record = torch.Generator().manual_seed(seed), SpectralRecord()
    for step, sigma in enumerate(sigmas):
        for _ in range(passes):
            for layer in range(layers):
                q, k = (torch.randn(1, FRAMES * POSITIONS, HEADS * WIDTH, generator=generator) * (0.5 + layer / 2) for _ in range(2))
                tau_eff = method.tau_eff(layer, layers, step / 10)
                method.regulate(q * (1 - drift), k, HEADS, FRAMES, tau_eff, observe=partial(record.add, layer, layers, sigma, tau_eff))
    return record


def test_diagnostics_equal_the_formulas_written_as_loops():
    A = random_operators()
    got = diagnostics(A)
    for b in range(2):
        tension = []
        for h in range(HEADS):
            slices = A[b, h].tolist()
            rows = [row for matrix in slices for row in matrix]
            rho = sum(torch.tensor(matrix) @ torch.tensor(matrix).T / torch.tensor(matrix).square().sum() for matrix in slices) / POSITIONS
            roots = sorted(torch.linalg.eigvals(rho).real.tolist(), reverse=True)
            vn = -sum(x * math.log(x) for x in roots if x > 0)
            row = -sum(a * math.log(a) for line in rows for a in line) / len(rows)
            kept = sum(matrix[i][i] for matrix in slices for i in range(FRAMES)) / len(rows)
            tension.append(row / math.log(FRAMES) - vn / math.log(FRAMES))
            expected = {
                "tension": tension[-1],
                "row_entropy": row / math.log(FRAMES),
                "von_neumann": vn / math.log(FRAMES),
                "effective_rank": math.exp(vn),
                "lambda_1": roots[0],
                "self_retention": kept,
                "cross_frame": 1 - kept,
                # Gini as half the mean absolute difference over the mean, which is 1/F
                "gini": sum(abs(x - y) for line in rows for x in line for y in line) / (2 * FRAMES) / len(rows),
                "balance": sum(
                    sum(m[i][j] * ((j > i) - (j < i)) for j in range(FRAMES)) for m in slices for i in range(FRAMES)
                ) / len(rows),
            }  # fmt: skip
            for metric, value in expected.items():
                assert float(got[metric][b, h]) == pytest.approx(value, abs=2e-6), metric
            assert got["eigenvalues"][b, h].tolist() == pytest.approx(roots, abs=2e-6)
        spread = math.sqrt(sum((t - sum(tension) / HEADS) ** 2 for t in tension) / HEADS)
        assert got["head_spread"][b].tolist() == pytest.approx([spread] * HEADS, abs=2e-6)
    assert set(METRICS) | {"eigenvalues"} == set(got)


def test_extreme_operators_have_extreme_diagnostics():
    names = ("effective_rank", "lambda_1", "self_retention", "gini")
    identity, uniform = diagnostics(one(torch.eye(21))), diagnostics(one(torch.full((21, 21), 1 / 21)))
    assert [float(identity[name]) for name in names] == pytest.approx([21, 1 / 21, 1, 20 / 21])
    assert [float(uniform[name]) for name in names] == pytest.approx([1, 1, 1 / 21, 0], abs=1e-6)


def test_balance_is_signed_toward_the_future():
    later = torch.roll(torch.eye(4), 1, 1)
    assert float(future_past_balance(one(later))) == pytest.approx((3 - 1) / 4)
    assert float(future_past_balance(one(later.T))) == pytest.approx(-(3 - 1) / 4)
    assert float(gini(one([[1.0, 0], [0.5, 0.5]]))) == pytest.approx(0.25)


def test_a_video_of_the_paper_has_1280_calls():
    """40 layers, 16 steps, two CFG passes (appendix: 38,400 in 30 videos)."""
    record, A = SpectralRecord(), random_operators(1)[:, :1, :1]
    for step in range(16):
        for _ in range(2):
            for layer in range(40):
                record.add(layer, 40, 1 - step / 50, 0.0, A, A, torch.ones(1, 1))
    assert len(record) == 1280
    assert set(zip(record["layer"].tolist(), record["step"].tolist(), record["row"].tolist())) == {
        (layer, step, row) for layer in range(40) for step in range(16) for row in range(2)
    }


def test_batched_and_separate_cfg_rows_are_recorded_alike():
    A, B = random_operators(), random_operators()
    gamma = torch.rand(2, HEADS)
    batched, separate = SpectralRecord(), SpectralRecord()
    batched.add(3, LAYERS, 0.9, 0.1, A, B, gamma)
    for row in range(2):
        separate.add(3, LAYERS, 0.9, 0.1, A[row : row + 1], B[row : row + 1], gamma[row : row + 1])
    assert batched["row"].tolist() == separate["row"].tolist() == [0, 1]
    assert json.loads(batched.to_json()) == json.loads(separate.to_json())


def test_columns_hold_means_over_heads_before_and_after():
    A, B, gamma = random_operators(1), random_operators(1), torch.tensor([[1.1, 0.9, 1.0]])
    record = SpectralRecord()
    record.add(5, LAYERS, 0.9, 0.1, A, B, gamma)
    first, last = spectral_tension(A)[0], spectral_tension(B)[0]
    assert record["tension_heads_before"][0].tolist() == pytest.approx(first.tolist(), abs=1e-6)
    assert float(record["tension_before"][0]) == pytest.approx(float(first.mean()), abs=1e-6)
    assert float(record["tension_after"][0]) == pytest.approx(float(last.mean()), abs=1e-6)
    assert float(record["reduction"][0]) == pytest.approx(abs(float(first.mean())) - abs(float(last.mean())), abs=1e-6)
    assert float(record["strength"][0]) == pytest.approx(0.2 / 3, abs=1e-6)  # heads that pull apart do not cancel
    assert record["active"].tolist() == [True] and record["depth"].tolist() == [1.0]
    np.testing.assert_allclose(record.operators[5], A.mean((0, 1, 2)).numpy(), atol=1e-6)
    assert np.isnan(record.operators[:5]).all()


def test_deep_layers_are_the_deeper_half():
    record, A = SpectralRecord(), random_operators(1)
    for layer in range(40):
        record.add(layer, 40, 0.9, 0.1, A, A, torch.ones(1, HEADS))
    assert record["layer"][record["deep"]].tolist() == list(range(20, 40))


def test_summary_is_counted_from_the_active_calls():
    record = recorded()
    calls = range(len(record))
    T, after, gamma = record["tension_before"], record["tension_after"], record["gamma"][:, 0]
    active = [c for c in calls if abs(gamma[c] - 1) > 0.03]
    assert 0 < len(active) < len(record)
    summary = record.summary()
    assert summary["calls"] == len(record) == 3 * 2 * LAYERS
    assert summary["active_share"] == pytest.approx(len(active) / len(record))
    assert summary["tension_active"]["before"] == pytest.approx(sum(abs(T[c]) for c in active) / len(active), rel=1e-5)
    assert summary["tension_active"]["after"] == pytest.approx(sum(abs(after[c]) for c in active) / len(active), rel=1e-5)
    assert summary["reduced_share"] == pytest.approx(sum(abs(after[c]) <= abs(T[c]) for c in active) / len(active))
    assert summary["fragmented_share"] == pytest.approx(sum(T[c] < 0 for c in active) / len(active))
    assert summary["high_tension_share"]["before"] == pytest.approx(sum(abs(T[c]) > 0.3 for c in active) / len(active))
    deep = [abs(T[c]) for c in calls if record["layer"][c] >= LAYERS / 2]
    assert summary["deep"]["abs_tension"]["before"] == pytest.approx(sum(deep) / len(deep), rel=1e-5)
    assert summary["wrong_sign"] == 0


def test_a_gamma_of_the_wrong_sign_is_counted():
    record = SpectralRecord()
    record.add(0, 1, 0.9, 0.2, one(torch.eye(5)), one(torch.eye(5)), torch.tensor([[1.1]]))
    assert record.summary()["wrong_sign"] == 1


def test_gamma_per_head_has_the_right_sign_where_each_head_follows_its_own_tension():
    """Here the mean of gamma lies above 1 and the mean tension below 0: no call went the wrong way all the same."""
    fragmented, over_mixed = torch.eye(5).double(), torch.full((5, 5), 0.2).double()
    A = torch.stack([fragmented, 0.12 * fragmented + 0.88 * over_mixed])[None, :, None]
    tension = spectral_tension(A)
    assert tension[0, 0] < 0 < tension[0, 1] and tension.mean() < 0 < tension.exp().mean() - 1
    for gamma, wrong in ((tension.exp(), 0), (tension.exp().flip(1), 1), ((-tension).exp(), 1)):
        record = SpectralRecord()
        record.add(0, 1, 0.9, 1.0, A, A, gamma)
        assert record.summary()["wrong_sign"] == wrong


def test_videos_of_a_batch_are_recorded_apart_whether_their_cfg_rows_come_together_or_not():
    """Rows as the host lays them: all videos of one side, then all of the other."""
    A, B, gamma = random_operators(4), random_operators(4), torch.rand(4, HEADS)
    together, apart = BatchRecord(), BatchRecord()
    together.observe(3, LAYERS, 0.9, 0.1, 2)(A, B, gamma)
    for side in (slice(0, 2), slice(2, 4)):
        apart.observe(3, LAYERS, 0.9, 0.1, 2)(A[side], B[side], gamma[side])
    for video in range(2):
        alone = SpectralRecord()
        for row in (video, 2 + video):
            alone.add(3, LAYERS, 0.9, 0.1, A[row : row + 1], B[row : row + 1], gamma[row : row + 1])
        for record in (together.videos[video], apart.videos[video]):
            assert record.to_dict()["calls"] == alone.to_dict()["calls"]
            np.testing.assert_allclose(record.operators[3], alone.operators[3], rtol=1e-5)
    assert together.to_dict() == {"videos": [record.to_dict() for record in together.videos]} and len(together.videos) == 2


def test_a_run_that_only_measures_has_equal_sides_and_no_active_call():
    record = recorded(SpectralHomeostasis(tau=0))
    for metric in METRICS:
        np.testing.assert_array_equal(record[f"{metric}_before"], record[f"{metric}_after"])
    summary = record.summary()
    assert summary["active_share"] == 0 and summary["tension_active"] == {"before": None, "after": None}


@pytest.mark.parametrize("way", ["dict", "json", "npz"])
def test_record_reads_back(way, tmp_path):
    record = recorded()
    if way == "npz":
        record.to_npz(tmp_path / "record.npz")
        back = SpectralRecord.from_npz(tmp_path / "record.npz")
    else:
        back = SpectralRecord.from_dict(record.to_dict() if way == "dict" else json.loads(record.to_json()))
    for column in ("layer", "step", "row", "sigma", "gamma", "tension_heads_after", "eigenvalues_before", "gini_after", "active", "depth"):
        np.testing.assert_allclose(back[column], record[column], atol=1e-6 if way != "npz" else 0)
    np.testing.assert_allclose(back.operators, record.operators, atol=1e-6)
    for side, mean in back.summary()["tension_active"].items():
        assert mean == pytest.approx(record.summary()["tension_active"][side], abs=1e-6)
    assert back["layer"].dtype.kind == "i"


def test_json_is_strict_where_layers_were_never_seen():
    record, A = SpectralRecord(), random_operators(1)
    record.add(2, LAYERS, 0.9, 0.1, A, A, torch.ones(1, HEADS))
    values = json.loads(record.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert values["operators"][0][0][0] is None
    assert np.isnan(SpectralRecord.from_dict(values).operators[0]).all()


def test_an_empty_record_can_be_summed_and_written():
    record = SpectralRecord()
    assert record.summary()["calls"] == 0 and record.summary()["active_share"] is None
    assert len(SpectralRecord.from_dict(json.loads(record.to_json()))) == 0


def test_another_model_in_the_same_record_is_refused():
    record, A = SpectralRecord(), random_operators(1)
    record.add(0, LAYERS, 0.9, 0.1, A, A, torch.ones(1, HEADS))
    fewer = A[:, :2]
    with pytest.raises(ValueError, match=r"layers, heads = \(6, 2\)"):
        record.add(1, LAYERS, 0.9, 0.1, fewer, fewer, torch.ones(1, 2))


def test_context_windows_of_other_lengths_are_kept_and_the_mean_operator_is_that_of_most_calls():
    long, short = random_operators(2), random_operators(1)[..., :3, :3].softmax(-1)
    record = SpectralRecord()
    record.add(0, LAYERS, 0.9, 0.1, short, short, torch.ones(1, HEADS))
    record.add(0, LAYERS, 0.9, 0.1, long, long, torch.ones(2, HEADS))
    assert record["tension_before"].tolist() == pytest.approx(
        [float(spectral_tension(operators)[row].mean()) for operators, rows in ((short, 1), (long, 2)) for row in range(rows)], abs=1e-6
    )
    assert record["eigenvalues_before"].shape == (3, FRAMES) and record["eigenvalues_before"][0, 3:].tolist() == [0, 0]
    assert record["eigenvalues_before"].sum(1).tolist() == pytest.approx([1, 1, 1])
    np.testing.assert_allclose(record.operators[0], long.mean((0, 1, 2)), rtol=1e-6)
    back = SpectralRecord.from_dict(json.loads(record.to_json()))
    np.testing.assert_allclose(back.operators[0], long.mean((0, 1, 2)), atol=1e-6)
    assert back.frames == FRAMES and len(back) == 3
