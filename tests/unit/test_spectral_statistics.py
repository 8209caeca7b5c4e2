"""Paired tests against the paper's printed numbers, published tables, counting by hand, and scipy where it is installed."""

import math
from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from wan_conductor.guidance.homeostasis import SpectralHomeostasis
from wan_conductor.guidance.spectral_record import SpectralRecord
from wan_conductor.guidance.spectral_statistics import (
    BETTER,
    cell_means,
    cohens_d,
    dose_response,
    mean_ranks,
    paired_calls,
    sign_test,
    spearman,
    trend,
    video_effects,
    video_means,
    video_tests,
    wilcoxon,
    within_call_test,
)

LAYERS, FRAMES, HEADS, WIDTH, POSITIONS = 6, 5, 3, 4, 4


def signs(better, n):
    return np.array([1.0] * better + [-1.0] * (n - better))


def video(seed, tau=0.0, skip=(), layers=LAYERS, heads=HEADS, frames=FRAMES, sigmas=(1.0, 0.9)):
    """Two steps of random attention; the same seed gives the same attention, so a plain and a guided run pair up."""
    generator, method, record = torch.Generator().manual_seed(seed), SpectralHomeostasis(tau=tau), SpectralRecord()
    for step, sigma in enumerate(sigmas):
        for layer in range(layers):
            q, k = (torch.randn(1, frames * POSITIONS, heads * WIDTH, generator=generator) * (1 + seed / 4) for _ in range(2))
            if (layer, step) not in skip:
                tau_eff = method.tau_eff(layer, layers, 1 - sigma)
                method.regulate(q, k, heads, frames, tau_eff, observe=partial(record.add, layer, layers, sigma, tau_eff))
    return record


@pytest.mark.parametrize("better, printed", [(24, "0.0014"), (23, "0.0052"), (22, "0.0161")])
def test_sign_test_gives_the_papers_p(better, printed):
    assert f"{sign_test(signs(better, 30)).p:.4f}" == printed


def test_sign_test_of_30_of_30_and_26_of_30_is_as_small_as_the_paper_says():
    assert sign_test(signs(30, 30)).p == pytest.approx(2 * 0.5**30) and sign_test(signs(30, 30)).p < 1e-8
    assert sign_test(signs(26, 30)).p < 0.001
    assert sign_test(signs(4, 30)).p == sign_test(signs(26, 30)).p


def test_sign_test_drops_ties_and_never_exceeds_one():
    assert sign_test(np.array([1.0, 0, 0, -1])) == (1, 2, 1.0)
    assert sign_test(np.zeros(3)) == (0, 0, 1.0)


def test_cohens_d_is_the_mean_in_deviations_of_the_differences():
    values = [0.1, 0.4, -0.2, 0.3]
    mean = sum(values) / 4
    assert cohens_d(np.array(values)) == pytest.approx(mean / math.sqrt(sum((x - mean) ** 2 for x in values) / 3))
    assert math.isnan(cohens_d(np.array([1.0]))) and cohens_d(np.zeros(3)) == 0 and cohens_d(np.ones(3)) == math.inf


# Critical values of the smaller rank sum, two-sided 0.05 (Wilcoxon and Wilcox 1964, as in every table of the test)
@pytest.mark.parametrize("n, critical", [(6, 0), (8, 3), (10, 8), (15, 25), (20, 52), (25, 89), (30, 137), (40, 264), (50, 434)])
def test_wilcoxon_agrees_with_the_published_table(n, critical):
    def differences(smaller_sum):
        values, rest = np.arange(1.0, n + 1), smaller_sum
        for rank in range(n, 0, -1):
            if rank <= rest:
                values[rank - 1], rest = -rank, rest - rank
        return values

    assert wilcoxon(differences(critical)).p <= 0.05 < wilcoxon(differences(critical + 1)).p
    assert wilcoxon(-differences(critical)).p == wilcoxon(differences(critical)).p


@pytest.mark.parametrize("values", [[1, -2, 3, 4, -5, 6], [1, 1, -1, 2, 2, 2, -3], [0, 0.5, -0.5, 1.5]])
def test_wilcoxon_counts_all_sign_patterns_ties_included(values):
    values = np.array(values, float)
    kept = values[values != 0]
    ranks = [sum(abs(y) < abs(x) for y in kept) + (sum(abs(y) == abs(x) for y in kept) + 1) / 2 for x in kept]
    sums = [sum(rank for rank, up in zip(ranks, pattern) if up) for pattern in product((0, 1), repeat=len(ranks))]
    statistic, middle = sum(rank for rank, x in zip(ranks, kept) if x > 0), sum(ranks) / 2
    expected = sum(abs(value - middle) >= abs(statistic - middle) for value in sums) / len(sums)
    got = wilcoxon(values)
    assert got.statistic == statistic and got.p == pytest.approx(expected)


def test_exact_and_normal_wilcoxon_meet():
    generator = np.random.default_rng(0)
    values = generator.normal(0.25, 1, 51)
    exact = wilcoxon(values[:50])
    centre, deviation = 50 * 51 / 4, math.sqrt(50 * 51 * 101 / 24)
    assert exact.p == pytest.approx(math.erfc(abs(exact.statistic - centre) / deviation / math.sqrt(2)), rel=0.12)
    assert wilcoxon(values).p == pytest.approx(exact.p, rel=0.6)
    assert wilcoxon(np.zeros(4)) == (0.0, 1.0)


def test_statistics_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    for n in (8, 30, 400):
        x, y = generator.normal(0.2, 1, n), generator.normal(0, 1, n)
        p = stats.wilcoxon(x, method="exact" if n <= 50 else "approx", correction=False).pvalue
        assert wilcoxon(x).p == pytest.approx(p, rel=1e-9)
        assert sign_test(x).p == pytest.approx(stats.binomtest(int((x > 0).sum()), n).pvalue, rel=1e-9)
        assert spearman(x, y).statistic == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    ties = np.round(generator.normal(0.1, 1, 300), 1)
    assert wilcoxon(ties).p == pytest.approx(stats.wilcoxon(ties, method="approx", correction=False).pvalue, rel=1e-9)
    np.testing.assert_array_equal(mean_ranks(ties), stats.rankdata(ties))


# Critical |rho| of 8 points, two-sided (Zar 1972): 0.738 at 0.05, 0.881 at 0.01; figure M's rho are these
@pytest.mark.parametrize("order, rho, level", [
    ([1, 2, 3, 4, 5, 8, 6, 7], 0.929, 0.01),
    ([1, 2, 3, 4, 6, 8, 5, 7], 0.881, 0.01),
    ([2, 1, 4, 3, 8, 7, 5, 6], 0.738, 0.05),
])  # fmt: skip
def test_spearman_gives_the_papers_correlations_and_the_tables_levels(order, rho, level):
    got = spearman(np.arange(8.0), np.array(order, float))
    assert got.statistic == pytest.approx(rho, abs=5e-4)
    assert got.p <= level


def test_eight_points_at_0929_are_less_sure_than_the_paper_prints():
    """Figure M says p < 0.001 there; all 40,320 orders say 0.0022."""
    assert spearman(np.arange(8.0), np.array([1, 2, 3, 4, 5, 8, 6, 7.0])).p == pytest.approx(0.0022, abs=5e-5)


def test_spearman_counts_orders_and_knows_constants():
    x, y = np.array([1.0, 2, 2, 4]), np.array([3.0, 1, 4, 5])

    def pearson(a, b):
        return float(np.corrcoef(a, b)[0, 1])

    ranks = np.array([1, 2.5, 2.5, 4])
    own = pearson(ranks, [2, 1, 3, 4])
    expected = np.mean([abs(pearson(ranks, order)) >= abs(own) - 1e-12 for order in permutations([2, 1, 3, 4])])
    assert spearman(x, y) == pytest.approx((own, expected))
    assert math.isnan(spearman(np.ones(4), y).statistic) and spearman(np.ones(4), y).p == 1
    many = np.arange(40.0)
    assert spearman(many, many).p < 1e-8 < spearman(many, np.random.default_rng(3).permutation(40)).p


def test_calls_are_matched_by_layer_noise_level_and_row():
    plain, guided = video(1, skip={(2, 0)}), video(1, tau=1.0, skip={(4, 1)})
    pairs = paired_calls([plain], [guided])
    assert len(pairs) == 2 * LAYERS - 2
    for column in ("layer", "sigma", "row"):
        np.testing.assert_array_equal(plain[column][pairs.plain_rows], guided[column][pairs.guided_rows])
    # the same attention: what the plain run shows is what the guided run saw before its correction
    np.testing.assert_allclose(pairs.plain("gini"), pairs.of_guided("gini_before"), atol=1e-6)
    np.testing.assert_allclose(pairs.improvement("abs_tension"), pairs.of_guided("reduction"), atol=1e-6)
    assert (pairs.improvement("abs_tension")[pairs.of_guided("active")] > 0).all()


def test_a_guided_run_whose_span_begins_later_is_matched_with_the_same_noise_levels():
    """It counts its steps from there: its step 0 is the plain run's step 1."""
    plain, guided = video(1), video(1, tau=1.0, skip={(layer, 0) for layer in range(LAYERS)})
    pairs = paired_calls([plain], [SpectralRecord.from_dict(guided.to_dict())])
    assert set(plain["step"][pairs.plain_rows]) == {1} and set(pairs.of_guided("step")) == {0} and len(pairs) == LAYERS
    np.testing.assert_allclose(pairs.plain("tension"), pairs.of_guided("tension_before"), atol=1e-5)


def test_improvement_is_signed_so_that_above_zero_is_better():
    pairs = paired_calls([video(1)], [video(1, tau=1.0)])
    for metric, sign in BETTER.items():
        np.testing.assert_allclose(pairs.improvement(metric), sign * (pairs.guided(metric) - pairs.plain(metric)), atol=1e-7)
    np.testing.assert_allclose(pairs.improvement("self_retention"), pairs.improvement("cross_frame"), atol=1e-6)


def test_videos_are_tested_on_the_means_of_their_deep_calls():
    plains, guideds = [video(seed) for seed in range(4)], [video(seed, tau=1.0) for seed in range(4)]
    pairs = paired_calls(plains, guideds)

    def deep_mean(record):
        return np.mean([abs(t) for t, layer in zip(record["tension_after"], record["layer"]) if layer >= LAYERS / 2])

    plain, guided = (np.array([deep_mean(record) for record in records]) for records in (plains, guideds))
    np.testing.assert_allclose(video_means(pairs, pairs.plain("abs_tension")), plain, rtol=1e-6)
    test = video_tests(pairs)["abs_tension"]
    assert (test.better, test.n) == (int((guided < plain).sum()), 4)
    assert test.d == pytest.approx(cohens_d(guided - plain), rel=1e-4) and test.d < 0
    assert (test.plain, test.guided) == pytest.approx((plain.mean(), guided.mean()), rel=1e-6)
    assert within_call_test(guideds) == (4, 4, 0.125)
    assert within_call_test(plains).n == 0  # nothing active, nothing to say


def test_effects_of_videos_are_ranked_by_their_baseline():
    seeds = (3, 0, 2)
    plains, guideds = [video(seed) for seed in seeds], [video(seed, tau=1.0) for seed in seeds]
    effect, baseline = video_effects(paired_calls(plains, guideds), "abs_tension")
    assert (np.diff(baseline) >= 0).all()
    alone = {}
    for plain, guided in zip(plains, guideds):
        one = paired_calls([plain], [guided])
        deep = one.of_guided("deep")
        alone[float(np.abs(plain["tension_after"])[deep].mean())] = cohens_d(one.improvement("abs_tension")[deep])
    for d, base in zip(effect, baseline):
        assert d == pytest.approx(alone[min(alone, key=lambda known: abs(known - base))])


def test_runs_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="2 plain and 1 guided"):
        paired_calls([video(0), video(1)], [video(0)])
    for other in (video(0, layers=3), video(0, heads=2), video(0, frames=4), SpectralRecord()):
        with pytest.raises(ValueError, match=f"video 0: plain has {other.layers} layers.*, guided 6 layers, 3 heads, 5 frames"):
            paired_calls([other], [video(0)])
    with pytest.raises(ValueError, match="video 0: no call in common"):
        paired_calls([video(0, sigmas=(0.95, 0.85))], [video(0)])


def test_dose_bins_hold_equal_shares_in_rising_dose():
    generator = np.random.default_rng(2)
    dose = generator.random(80)
    bins = dose_response(dose, 3 * dose + 0.01 * generator.normal(size=80))
    assert [one.calls for one in bins] == [10] * 8
    order = np.argsort(dose)
    for index, one in enumerate(bins):
        assert one.dose == pytest.approx(dose[order[10 * index : 10 * index + 10]].mean())
        assert one.mean == pytest.approx(3 * one.dose, abs=0.02)
        assert one.d / math.sqrt(1 / 10) == pytest.approx(one.mean / one.error)
    assert trend(bins) == pytest.approx((1.0, 2 / 40320))


def test_equal_doses_fall_into_one_bin():
    bins = dose_response(np.array([1.0] * 6 + [2.0] * 2), np.arange(8.0))
    assert [(one.dose, one.calls) for one in bins] == [(1.0, 6), (2.0, 2)]
    assert dose_response(np.zeros(0), np.zeros(0)) == []


def test_cells_hold_means_and_nothing_where_no_call_was():
    cells = cell_means(np.array([0, 0, 2]), np.array([1, 1, 0]), np.array([1.0, 3, 5]), 3, 2)
    np.testing.assert_array_equal(cells, [[np.nan, 2], [np.nan, np.nan], [5, np.nan]])
