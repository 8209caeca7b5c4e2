"""Spectral Homeostasis against a dense reference written with loops, the paper's numbers, and its properties."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode
from wan_conductor.guidance.frame_operators import (
    block_operators,
    density,
    row_entropy,
    slice_operators,
    spectral_entropy,
    spectral_tension,
    spectrum,
)
from wan_conductor.guidance.homeostasis import NEGLIGIBLE, SpectralHomeostasis, layer_weight, scaled_queries, step_weight
from wan_conductor.guidance.spectral_record import BatchRecord

FRAMES, POSITIONS, HEADS, WIDTH = 5, 6, 3, 4
WAN_FRAMES = 21


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def random_call(batch=2, scale=1.5, dtype=torch.float64):
    shape = (batch, FRAMES * POSITIONS, HEADS * WIDTH)
    return torch.randn(shape, dtype=dtype) * scale, torch.randn(shape, dtype=dtype) * scale


def softmax(logits):
    exponents = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exponents) for value in exponents]


def logit(q, k, b, h, i, j):
    """Token i of q against token j of k in head h, from the layout "b n (h d)"."""
    return sum(float(q[b, i, h * WIDTH + c]) * float(k[b, j, h * WIDTH + c]) for c in range(WIDTH)) / math.sqrt(WIDTH)


def reference_slices(q, k, b, h, positions=range(POSITIONS)):
    """One F x F list of lists per position, section 3.1 read token by token."""
    return [
        [softmax([logit(q, k, b, h, i * POSITIONS + p, j * POSITIONS + p) for j in range(FRAMES)]) for i in range(FRAMES)]
        for p in positions
    ]


def reference_tension(slices):
    """T = H_row - H_vN of eq 1 to 3; rho, the mean of A A^T / Tr(A A^T), by loops, its entropy from its characteristic roots."""
    frames = len(slices[0])
    rows = sum(-a * math.log(a) for A in slices for row in A for a in row if a) / (len(slices) * frames)
    rho = torch.zeros(frames, frames, dtype=torch.float64)
    for A in slices:
        gram = [[sum(A[i][m] * A[j][m] for m in range(frames)) for j in range(frames)] for i in range(frames)]
        trace = sum(gram[i][i] for i in range(frames))
        rho += torch.tensor(gram, dtype=torch.float64) / trace / len(slices)
    roots = torch.linalg.eigvals(rho).real.tolist()
    return (rows - sum(-x * math.log(x) for x in roots if x > 1e-15)) / math.log(frames)


def operator_of(rows):
    """A row-stochastic matrix as one head's only slice: "1 1 1 f g"."""
    return torch.as_tensor(rows, dtype=torch.float64)[None, None, None]


def band(s, frames=WAN_FRAMES):
    distance = (torch.arange(frames)[:, None] - torch.arange(frames)).abs().double()
    return (-distance / s).softmax(-1)


def paper_grid(tau=0.2, layers=40, steps=50, recorded=16):
    method = SpectralHomeostasis(tau=tau)
    return torch.tensor([[method.tau_eff(layer, layers, step / (steps - 1)) for step in range(recorded)] for layer in range(layers)])


def test_schedule_gives_the_numbers_printed_in_the_paper():
    grid = paper_grid()
    assert f"{grid.mean():.4f}" == "0.0924"
    assert f"{(grid > 0.1).double().mean():.3f}" == "0.475"
    assert f"{grid.max():.3f}" == "0.200"
    assert grid.numel() * 2 == 1280  # two CFG passes
    assert grid.numel() * 2 * 30 == 38400


def test_schedule_is_monotone_in_depth_and_step_and_ends_in_zero():
    grid = paper_grid(recorded=50)
    assert (grid.diff(dim=0) >= 0).all() and (grid.diff(dim=1) <= 0).all()
    assert grid[0].abs().max() == 0 and grid[:, -1].abs().max() < 1e-12
    assert (grid[:8] < 0.02).all()  # D.1: near zero in the shallowest fifth
    assert paper_grid()[:12].mean(1).max() < 0.05  # A.4: below 0.05 in the first 30 % of layers


def test_progress_of_the_flow_grid_weighs_like_the_papers_steps():
    """A sigma's progress without the shift, on the host's 50-step grid: .0927 where the paper's step count gives .0924."""
    method = SpectralHomeostasis()
    grid = torch.tensor([[method.tau_eff(layer, 40, step * 20 / 1000) for step in range(16)] for layer in range(40)])
    assert f"{grid.mean():.4f}" == "0.0927"


def test_progress_outside_the_schedule_is_held_at_its_ends():
    assert (step_weight(-0.1), step_weight(1.1)) == (1.0, 0.0)
    assert layer_weight(0, 1) == 1.0


@pytest.mark.parametrize("s, tension, row, von_neumann, lambda_1", [
    (0.5, -0.721, 0.256, 0.977, 0.077),
    (1, -0.348, 0.498, 0.845, 0.156),
    (2, 0.078, 0.705, 0.627, 0.306),
    (4, 0.451, 0.863, 0.412, 0.536),
    (8, 0.728, 0.953, 0.225, 0.786),
])  # fmt: skip
def test_banded_attention_has_the_tabled_entropies(s, tension, row, von_neumann, lambda_1):
    A = operator_of(band(s))
    eigenvalues = spectrum(density(A))
    got = [float(x) for x in (spectral_tension(A), row_entropy(A), spectral_entropy(eigenvalues), eigenvalues[0, 0, 0])]
    assert got == pytest.approx([tension, row, von_neumann, lambda_1], abs=6e-4)


def test_identity_is_fragmented_by_minus_one_and_uniform_over_mixed_by_one():
    assert float(spectral_tension(operator_of(torch.eye(WAN_FRAMES)))) == pytest.approx(-1, abs=1e-12)
    assert float(spectral_tension(operator_of(torch.full((WAN_FRAMES,) * 2, 1 / WAN_FRAMES)))) == pytest.approx(1, abs=1e-6)


def test_tension_is_blind_to_a_sink_and_lambda_1_is_not():
    sink = torch.zeros(WAN_FRAMES, WAN_FRAMES).double()
    sink[:, 0] = 1
    for share, tension in ((0.4, 0.054), (0.8, 0.217)):
        assert float(spectral_tension(operator_of((1 - share) * band(1) + share * sink))) == pytest.approx(tension, abs=6e-4)
    assert float(spectrum(density(operator_of(0.2 * band(1) + 0.8 * sink)))[0, 0, 0]) == pytest.approx(0.986, abs=6e-4)


def test_slices_and_their_tension_equal_the_formulas_written_as_loops():
    q, k = random_call()
    got = slice_operators(q, k, HEADS, FRAMES)
    for b in range(2):
        for h in range(HEADS):
            expected = reference_slices(q, k, b, h)
            torch.testing.assert_close(got[b, h], torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
            assert float(spectral_tension(got)[b, h]) == pytest.approx(reference_tension(expected), abs=1e-9)


@pytest.mark.parametrize("queries", [0, 1, 2])
def test_block_mass_equals_full_attention_summed_over_the_frame(queries):
    q, k = random_call(batch=1)
    got = block_operators(q, k, HEADS, FRAMES, queries)
    per_token = torch.tensor([
        [softmax([logit(q, k, 0, h, i, j) for j in range(FRAMES * POSITIONS)]) for i in range(FRAMES * POSITIONS)] for h in range(HEADS)
    ])
    mass = per_token.reshape(HEADS, FRAMES, POSITIONS, FRAMES, POSITIONS).sum(-1)
    tokens = {0: range(POSITIONS), 1: [0], 2: [0, 5]}[queries]
    torch.testing.assert_close(got[0, :, 0].float(), mass[:, :, list(tokens)].mean(2), rtol=1e-5, atol=1e-6)


def test_block_mass_with_more_frames_than_head_width_keeps_every_frame():
    q = torch.zeros(1, 12 * 2, 4)
    torch.testing.assert_close(block_operators(q, q, 1, 12), torch.full((1, 1, 1, 12, 12), 1 / 12))


def test_sampled_positions_are_slices_of_the_call():
    q, k = random_call(batch=1)
    every, some = slice_operators(q, k, HEADS, FRAMES), slice_operators(q, k, HEADS, FRAMES, 4)
    found = [int((every - some[:, :, [place]]).abs().amax((0, 1, 3, 4)).argmin()) for place in range(4)]
    assert len(set(found)) == 4
    torch.testing.assert_close(some, every[:, :, found])


@pytest.mark.parametrize("height, width", [(30, 52), (45, 80), (32, 32), (16, 64)])
def test_sampled_positions_cover_all_rows_and_columns_evenly(height, width):
    """Also where a stride would fall on the same columns in every row."""
    place = torch.arange(height * width).double().repeat(2)  # frame-major
    q = torch.stack([place, torch.zeros_like(place)], -1)[None]
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.Tensor.index_select:
                seen.append(args[2])
            return function(*args, **(kwargs or {}))

    with Watch():
        slice_operators(q, q, 1, 2, 256)
    assert len(set(seen[0].tolist())) == 256
    rows, columns = (seen[0] // width).bincount(minlength=height), (seen[0] % width).bincount(minlength=width)
    for counts in (rows, columns):
        assert counts.min() >= 0.5 * counts.double().mean() - 1 and counts.max() <= 2 * counts.double().mean() + 1


def test_nothing_of_token_by_token_size_is_made():
    largest = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.numel())
            return result

    tokens, heads = 4 * 600, 2
    q = torch.randn(1, tokens, heads * 8)
    with Watch():
        SpectralHomeostasis(positions=0).regulate(q, q, heads, 4, 0.2)
    assert max(largest) <= q.numel() < heads * tokens * tokens / 100


def test_gamma_is_the_exponential_of_the_mean_tension_over_heads_in_each_row():
    tension = torch.tensor([[0.3, -0.1, 0.4], [-0.6, -0.2, -0.1]]).double()
    expected = torch.tensor([[math.exp(0.15 * 0.2)] * 3, [math.exp(0.15 * -0.3)] * 3]).double()
    torch.testing.assert_close(SpectralHomeostasis().gamma(tension, 0.15), expected)
    torch.testing.assert_close(SpectralHomeostasis(per_head=True).gamma(tension, 0.15), (0.15 * tension).exp())


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("operator", ["slices", "blocks"])
def test_gamma_sharpens_what_is_over_mixed_and_softens_what_is_fragmented(per_head, operator):
    method = SpectralHomeostasis(per_head=per_head, operator=operator)
    seen = set()
    for scale in (0.05, 0.7, 2, 6):
        q, k = random_call(scale=scale)
        tension = spectral_tension(method.operators(q, k, HEADS, FRAMES))
        gamma = method.gamma(tension, 0.2)
        followed = tension if per_head else tension.mean(1, keepdim=True).expand_as(tension)
        assert torch.equal((gamma - 1).sign(), followed.sign())
        seen |= set(followed.sign().flatten().tolist())
    assert seen >= ({-1.0, 1.0} if operator == "slices" else {1.0})


def test_correction_brings_the_tension_nearer_to_zero_from_both_sides():
    method = SpectralHomeostasis(tau=0.2)
    for scale in (0.2, 5):
        q, k = random_call(scale=scale)
        corrected = method.regulate(q, k, HEADS, FRAMES, 0.2)
        before, after = (spectral_tension(slice_operators(x, k, HEADS, FRAMES)).mean(1).abs() for x in (q, corrected))
        assert (after < before).all()


def test_regulated_call_is_attention_with_gamma_in_its_temperature():
    q, k = random_call()
    method = SpectralHomeostasis()
    got = slice_operators(method.regulate(q, k, HEADS, FRAMES, 0.2), k, HEADS, FRAMES)
    for b in range(2):
        slices = [reference_slices(q, k, b, h) for h in range(HEADS)]
        gamma = math.exp(0.2 * sum(map(reference_tension, slices)) / HEADS)
        expected = reference_slices(gamma * q, k, b, 1)
        torch.testing.assert_close(got[b, 1], torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-10)


def test_rows_of_a_batch_do_not_see_each_other():
    q, k = random_call()
    method = SpectralHomeostasis(tau=1)
    together = method.regulate(q, k, HEADS, FRAMES, 1.0)
    alone = torch.cat([method.regulate(q[b : b + 1], k[b : b + 1], HEADS, FRAMES, 1.0) for b in range(2)])
    torch.testing.assert_close(together, alone)
    ratio = (together / q).mean((1, 2))
    assert abs(ratio[0] - ratio[1]) > 1e-4


def test_per_head_correction_scales_each_head_by_its_own_gamma():
    q, k = random_call(batch=1)
    method = SpectralHomeostasis(per_head=True)
    tension = [reference_tension(reference_slices(q, k, 0, h)) for h in range(HEADS)]
    ratio = (method.regulate(q, k, HEADS, FRAMES, 0.2) / q).reshape(-1, HEADS, WIDTH)
    for h in range(HEADS):
        torch.testing.assert_close(ratio[:, h], torch.full_like(ratio[:, h], math.exp(0.2 * tension[h])), rtol=1e-8, atol=0)


def test_small_corrections_survive_half_precision():
    q = torch.linspace(1, 2, 257)[:-1].repeat(64).bfloat16()[None, :, None]
    scaled = scaled_queries(q, torch.tensor([[1.0115]]), 1)
    assert scaled.dtype == torch.bfloat16
    assert float((scaled.double() / q.double()).mean()) == pytest.approx(1.0115, abs=5e-4)  # bfloat16(1.0115) is 1.0078


def test_negligible_calls_are_left_alone_and_unmeasured(monkeypatch):
    q, k = random_call()
    monkeypatch.setattr(SpectralHomeostasis, "operators", lambda *_: pytest.fail("measured"))
    assert SpectralHomeostasis().regulate(q, k, HEADS, FRAMES, NEGLIGIBLE * 0.99) is q
    assert SpectralHomeostasis(tau=0).regulate(q, k, HEADS, FRAMES, 0.0) is q


def test_without_an_observer_the_operator_is_measured_once(monkeypatch):
    q, k = random_call()
    calls = []
    measure = SpectralHomeostasis.operators
    monkeypatch.setattr(SpectralHomeostasis, "operators", lambda self, *call: calls.append(0) or measure(self, *call))
    SpectralHomeostasis().regulate(q, k, HEADS, FRAMES, 0.2)
    assert len(calls) == 1


def test_observer_sees_the_operators_before_and_after_and_changes_nothing():
    q, k = random_call()
    seen = []
    method = SpectralHomeostasis()
    observed = method.regulate(q, k, HEADS, FRAMES, 0.2, observe=lambda *call: seen.append(call))
    assert torch.equal(observed, method.regulate(q, k, HEADS, FRAMES, 0.2))
    before, after, gamma = seen[0]
    torch.testing.assert_close(before, slice_operators(q, k, HEADS, FRAMES))
    torch.testing.assert_close(after, slice_operators(observed, k, HEADS, FRAMES))
    torch.testing.assert_close(gamma, method.gamma(spectral_tension(before), 0.2))
    assert method.regulate(q, k, HEADS, FRAMES, 0.0, observe=lambda *call: seen.append(call)) is q
    assert seen[1][0] is seen[1][1] and torch.equal(seen[1][2], torch.ones(2, HEADS))


def test_reference_tokens_are_neither_measured_nor_scaled():
    q, k = random_call()
    extra = torch.randn(2, 7, HEADS * WIDTH, dtype=torch.float64)
    tokens = slice(4, 4 + FRAMES * POSITIONS)
    padded_q, padded_k = (torch.cat([extra[:, :4], x, extra[:, 4:]], 1) for x in (q, k))
    method = SpectralHomeostasis(tau=1)
    got = method.regulate(padded_q, padded_k, HEADS, FRAMES, 1.0, tokens)
    torch.testing.assert_close(got[:, tokens], method.regulate(q, k, HEADS, FRAMES, 1.0))
    assert torch.equal(got[:, :4], extra[:, :4]) and torch.equal(got[:, tokens.stop :], extra[:, 4:])


def test_gradient_reaches_the_queries_scaled_by_gamma():
    q, k = random_call()
    q.requires_grad_()
    scaled = SpectralHomeostasis().regulate(q, k, HEADS, FRAMES, 0.2)
    scaled.sum().backward()
    torch.testing.assert_close(q.grad, (scaled / q).detach())


def test_limit_and_dead_zone_hold_gamma_and_are_off_by_default():
    tension = torch.tensor([[-0.9], [-0.05], [0.05], [0.9]])
    free = SpectralHomeostasis().gamma(tension, 1.0)
    torch.testing.assert_close(free, tension.exp())
    torch.testing.assert_close(SpectralHomeostasis(gamma_limit=1.25).gamma(tension, 1.0), free.clamp(0.8, 1.25))
    still = SpectralHomeostasis(dead_zone=0.1).gamma(tension, 1.0)
    torch.testing.assert_close(still, torch.stack([free[0], torch.ones(1), torch.ones(1), free[3]]))


def test_half_precision_calls_are_measured_in_single():
    q, k = (x.float() for x in random_call())
    half = slice_operators(q.bfloat16(), k.bfloat16(), HEADS, FRAMES)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, slice_operators(q.bfloat16().float(), k.bfloat16().float(), HEADS, FRAMES))
    mass = block_operators(q.bfloat16(), k.bfloat16(), HEADS, FRAMES)
    torch.testing.assert_close(mass.sum(-1), torch.ones(2, HEADS, 1, FRAMES))


@pytest.mark.parametrize("values, words", [
    ({"tau": -0.1}, "`tau` = -0.1"),
    ({"tau": math.nan}, "`tau` = nan"),
    ({"positions": -1}, "`positions` = -1"),
    ({"queries": -1}, "`queries` = -1"),
    ({"dead_zone": 1.5}, "`dead_zone` = 1.5"),
    ({"gamma_limit": 0.8}, "`gamma_limit` = 0.8"),
    ({"start_percent": 0.5, "end_percent": 0.2}, "`end_percent` = 0.2"),
    ({"operator": "mean"}, "`operator` = 'mean'"),
])  # fmt: skip
def test_values_out_of_range_are_named(values, words):
    with pytest.raises(ValueError, match="Spectral Homeostasis: " + words):
        SpectralHomeostasis(**values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("operator", ["slices", "blocks"])
def test_attention_that_is_not_finite_is_named_as_such(operator, value):
    q, k = random_call()
    q[1, 7, 2] = value
    with pytest.raises(ValueError, match="Spectral Homeostasis: .*not finite.*precision"):
        SpectralHomeostasis(operator=operator, queries=0).regulate(q, k, HEADS, FRAMES, 0.2)


def test_every_run_has_a_record_of_its_own():
    method = SpectralHomeostasis()
    assert isinstance(method.new_record(), BatchRecord) and method.new_record() is not method.new_record()


def test_one_frame_is_skipped_and_uneven_tokens_are_named():
    assert SpectralHomeostasis().skip_reason(2, 16.0) is None
    assert "one frame" in SpectralHomeostasis().skip_reason(1, 16.0)
    q, k = random_call()
    with pytest.raises(ValueError, match="`frames` = 4: .* 30 tokens"):
        slice_operators(q, k, HEADS, 4)
