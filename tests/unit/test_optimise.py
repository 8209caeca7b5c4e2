"""The shared loop: raises what it should, stops each sample alone, survives NaN, keeps the best, hears every objective."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from wan_conductor.guidance.budget import PRESETS, GuidanceBudget, preset_name
from wan_conductor.guidance.objective import Objective, ObjectiveLoss, PhraseRef
from wan_conductor.guidance.optimise import optimise_latent
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline

FRAMES = 13
PLAIN = GuidanceBudget(iterations=20, step_size=0.05, patience=0, check_last=True)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


@dataclass(frozen=True)
class Bowl:
    """Loss scale * |mean channel - goal|^2 on maps that are the latent itself: its minimum is known."""

    goal: float = 1.0
    scale: float = 1.0
    name: str = "Bowl"
    phrases: tuple = (PhraseRef("x"),)
    strength: float = 1.0
    start_percent: float | None = None
    end_percent: float | None = None
    good_enough: float = 0.0

    def skip_reason(self, latent_frames, fps):
        return None

    def loss(self, maps, fps):
        total = self.scale * (maps - self.goal).square().mean((1, 2, 3, 4))
        return ObjectiveLoss(total, {"bowl": total.detach()}, total.detach() < self.good_enough)


@dataclass
class Counted:
    """A capture that counts, and remembers what it was shown."""

    capture: object = lambda z: z
    seen: list = field(default_factory=list)
    with_gradient: list = field(default_factory=list)

    def __call__(self, z):
        self.seen.append(z.detach().clone())
        self.with_gradient.append(torch.is_grad_enabled() and z.requires_grad)
        return self.capture(z)


def attention_like(z):
    """Toy attention "b 1 f h w": how much each token's channel 0 wins a softmax against channels 1 and 2."""
    return torch.softmax(z[:, :3] * 2, dim=1)[:, :1]


def latent(batch=1, channels=1):
    return torch.randn(batch, channels, FRAMES, 3, 3)


def correlations(result, index):
    return [sample[0] for sample in result.history.iterations[index].objectives[0].traces["correlation"]]


def test_the_toy_objective_meets_the_protocol():
    assert isinstance(Bowl(), Objective)
    assert isinstance(TemporalMask(parse_timeline("1s - 2s x")), Objective)


@pytest.mark.parametrize("text", ["1s - 2s x", "0s - 1s x", "2s - end x", "0s - 0.8s, 2s - 2.6s x"])
@pytest.mark.parametrize("anchor", [True, False])
def test_it_raises_the_correlation_of_attention_with_the_mask(text, anchor):
    objective = TemporalMask(parse_timeline(text), lambda_entropy=0.1, anchor=anchor).at_step(1.0, {})
    result = optimise_latent(latent(3, channels=4), attention_like, [objective], replace(PLAIN, iterations=40))
    before, after = correlations(result, 0), correlations(result, -1)
    assert all(value < 0.8 for value in before)
    assert all(value >= 0.9 for value in after)
    assert result.history.stop == ["satisfied"] * 3


def test_the_first_update_is_one_sign_step_of_the_given_size():
    z = latent()
    budget = GuidanceBudget(iterations=1, step_size=0.01, check_last=False)
    moved = optimise_latent(z, lambda z: z, [Bowl(goal=50.0)], budget).z - z
    torch.testing.assert_close(moved, torch.full_like(z, 0.01), rtol=1e-4, atol=1e-6)


def test_every_guided_step_starts_with_a_fresh_optimiser():
    z, budget = latent(), GuidanceBudget(iterations=3, step_size=0.01)
    first = optimise_latent(z, lambda z: z, [Bowl()], budget)
    again = optimise_latent(z, lambda z: z, [Bowl()], budget)
    assert torch.equal(first.z, again.z)


def test_strength_scales_the_step():
    z, budget = latent(), GuidanceBudget(iterations=1, step_size=0.01, check_last=False)
    moved = optimise_latent(z, lambda z: z, [Bowl(goal=50.0, strength=1.5)], budget).z - z
    torch.testing.assert_close(moved, torch.full_like(z, 0.015), rtol=1e-4, atol=1e-6)


def test_a_sample_that_is_satisfied_stops_and_the_others_move_on():
    z = torch.stack([torch.full((1, 2, 2, 2), value) for value in (1.0, 0.7, -5.0)])
    capture = Counted()
    result = optimise_latent(z, capture, [Bowl(good_enough=0.01)], GuidanceBudget(iterations=10, step_size=0.1))
    budget = GuidanceBudget(iterations=10, step_size=0.1)
    alone = [optimise_latent(one, lambda z: z, [Bowl(good_enough=0.01)], budget) for one in z[:, None]]
    assert result.history.stop == ["satisfied", "satisfied", "iterations"]
    assert torch.equal(result.z[0], z[0])
    assert result.history.kept == [0, 3, 10]
    for index in range(3):
        torch.testing.assert_close(result.z[index], alone[index].z[0])
    shown = torch.stack(capture.seen)[:, :, 0, 0, 0, 0]
    assert (shown[:, 0] == 1.0).all()  # never moved, not even by momentum
    assert shown[4:, 1].unique().numel() == 1
    assert (shown[1:, 2] > shown[:-1, 2]).all()


def test_a_stop_comes_before_a_backward_pass_is_spent():
    capture = Counted()
    result = optimise_latent(torch.ones(2, 1, 2, 2, 2), capture, [Bowl(good_enough=0.01)], PLAIN)
    assert (result.history.forwards, result.history.backwards) == (1, 0)
    assert len(capture.seen) == 1
    assert result.history.delta_norm == [0.0, 0.0]


@pytest.mark.parametrize(("check_last", "forwards"), [(True, 6), (False, 5)])
def test_passes_are_counted_and_the_last_check_runs_without_gradient(check_last, forwards):
    capture = Counted()
    result = optimise_latent(latent(), capture, [Bowl(goal=9.0)], GuidanceBudget(iterations=5, step_size=0.01, check_last=check_last))
    assert (result.history.forwards, result.history.backwards, len(capture.seen)) == (forwards, 5, forwards)
    assert capture.with_gradient == [True] * 5 + [False] * check_last
    assert result.history.kept == [5]
    torch.testing.assert_close(result.z.mean() - capture.seen[0].mean(), torch.tensor(0.05), rtol=0.01, atol=0)


def test_the_best_latent_of_each_sample_is_kept_and_a_bad_last_update_taken_back():
    z = torch.tensor([0.95, -4.0]).view(2, 1, 1, 1, 1).expand(2, 1, 2, 2, 2)
    result = optimise_latent(z, lambda z: z, [Bowl()], GuidanceBudget(iterations=4, step_size=0.3))
    # 0.95 steps over the goal and oscillates: nothing measured later was nearer
    assert result.history.kept == [0, 4]
    assert torch.equal(result.z[0], z[0])
    losses = torch.tensor([record.objectives[0].loss for record in result.history.iterations])
    for b in range(2):
        assert losses[:, b].argmin() == result.history.kept[b]
        torch.testing.assert_close((result.z[b] - 1).square().mean(), losses[:, b].min())


def test_patience_ends_a_sample_that_no_longer_improves():
    z = torch.tensor([0.99, -4.0]).view(2, 1, 1, 1, 1).expand(2, 1, 2, 2, 2)
    result = optimise_latent(z, lambda z: z, [Bowl()], GuidanceBudget(iterations=6, step_size=0.3, patience=2))
    assert result.history.stop == ["patience", "iterations"]
    assert [record.moving[0] for record in result.history.iterations] == [True, True] + [False] * 5
    assert all(record.moving[1] for record in result.history.iterations[:-1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_that_sample_unedited(bad):
    def capture(z):
        factor = torch.ones(2, 1, 1, 1, 1)
        if z.mean() > 0.105:  # after the second update
            factor[0] = bad
        return z * factor

    z = torch.zeros(2, 1, 2, 2, 2)
    result = optimise_latent(z, capture, [Bowl()], GuidanceBudget(iterations=6, step_size=0.1))
    assert result.history.stop == ["loss not finite", "iterations"]
    assert torch.equal(result.z[0], z[0])
    assert result.z[1].mean() > 0.4
    assert result.history.iterations[2].objectives[0].loss[0] is None


def test_a_gradient_that_is_not_finite_leaves_that_sample_unedited():
    def capture(z):
        spoiled = torch.where(z[:1] > -9, z[:1], z[:1]).abs().sub(z[:1].abs()).sqrt()  # 0, with gradient NaN
        return torch.cat([z[:1] + spoiled, z[1:]])

    z = torch.zeros(2, 1, 2, 2, 2)
    result = optimise_latent(z, capture, [Bowl()], GuidanceBudget(iterations=3, step_size=0.1))
    assert result.history.stop == ["gradient not finite", "iterations"]
    assert torch.equal(result.z[0], z[0])
    torch.testing.assert_close(result.z[1], torch.full_like(z[1], 0.3), rtol=0.01, atol=0)


@pytest.mark.parametrize("scales", [(1.0, 1000.0), (1000.0, 1.0)])
def test_two_objectives_with_1000x_different_scales_have_equal_say(scales):
    @dataclass(frozen=True)
    class Half(Bowl):
        first: bool = True

        def loss(self, maps, fps):
            half = maps[:, :, :3] if self.first else maps[:, :, 3:]
            # both pull on the shared middle: up for one, down for the other
            total = sum((part - self.goal).square().mean((1, 2, 3, 4)) for part in (half, maps[:, :, 2:4]))
            return ObjectiveLoss(self.scale * total, {}, torch.zeros(len(total), dtype=torch.bool))

    z = torch.zeros(1, 1, 6, 2, 2)
    up, down = Half(goal=1.0, scale=scales[0]), Half(goal=-1.0, scale=scales[1], first=False)
    result = optimise_latent(z, lambda z: z, [up, down], GuidanceBudget(iterations=4, step_size=0.05, check_last=False))
    moved = (result.z - z)[0, 0].mean((1, 2))
    torch.testing.assert_close(moved[:2], torch.full((2,), 0.2), rtol=0.05, atol=0)
    torch.testing.assert_close(moved[4:], torch.full((2,), -0.2), rtol=0.05, atol=0)
    torch.testing.assert_close(moved, -moved.flip(0), rtol=1e-3, atol=1e-5)
    assert result.history.backwards == 8


def test_objectives_get_their_own_phrases_from_the_shared_capture():
    one, two = Bowl(goal=1.0, phrases=(PhraseRef("a"),)), Bowl(goal=-1.0, phrases=(PhraseRef("b"),))
    result = optimise_latent(torch.zeros(1, 2, 3, 2, 2), lambda z: z, [one, two], PLAIN)
    assert result.z[:, 0].mean() > 0.8
    assert result.z[:, 1].mean() < -0.8


def test_a_sample_stops_only_when_all_objectives_are_satisfied():
    z = torch.ones(1, 1, 2, 2, 2)
    near, far = Bowl(good_enough=0.1), Bowl(goal=3.0, good_enough=0.1)
    result = optimise_latent(z, lambda z: z, [near, far], GuidanceBudget(iterations=3, step_size=0.01))
    assert [objective.satisfied for objective in result.history.iterations[0].objectives] == [[True], [False]]
    assert result.history.stop == ["iterations"]
    assert result.history.backwards == 6


def test_a_denoise_mask_keeps_the_edit_out():
    z, mask = latent(), torch.zeros(1, 1, FRAMES, 3, 3)
    mask[:, :, 5:] = 1
    capture = Counted()
    result = optimise_latent(z, capture, [Bowl(goal=9.0)], PLAIN, update_mask=mask)
    assert all(torch.equal(seen[:, :, :5], z[:, :, :5]) for seen in capture.seen)
    assert torch.equal(result.z[:, :, :5], z[:, :, :5])
    assert (result.z[:, :, 5:] > z[:, :, 5:]).all()


def test_inference_tensors_are_accepted():
    with torch.inference_mode():
        z, mask = latent(channels=4), torch.ones(1, 1, FRAMES, 1, 1)
    result = optimise_latent(z, attention_like, [TemporalMask(parse_timeline("1s - 2s x"))], PLAIN, update_mask=mask)
    assert not torch.equal(result.z, z)
    assert not result.z.requires_grad


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_are_an_error(off):
    with off(), pytest.raises(RuntimeError, match="gradients are off"):
        optimise_latent(latent(channels=4), attention_like, [Bowl()], PLAIN)


def test_a_callback_that_raises_cancels_and_leaves_the_latent_alone():
    class Cancelled(Exception):
        pass

    z, records = latent(), []
    before = z.clone()

    def on_iteration(record):
        records.append(record)
        if len(records) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        optimise_latent(z, lambda z: z, [Bowl(goal=9.0)], PLAIN, on_iteration=on_iteration)
    assert [record.iteration for record in records] == [0, 1]
    assert torch.equal(z, before)


def test_small_updates_of_a_bf16_latent_are_summed_before_rounding():
    z = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bfloat16)
    result = optimise_latent(z, lambda z: z.float(), [Bowl(goal=50.0)], GuidanceBudget(iterations=200, step_size=3e-3))
    assert result.z.dtype == torch.bfloat16
    # summed in bf16, every step above 0.25 would be rounded from 0.003 up to 0.0039
    torch.testing.assert_close(result.z.float(), torch.full((1, 1, 2, 2, 2), 0.6), rtol=0.01, atol=0)


def test_zero_iterations_and_zero_step_size_change_nothing():
    z = latent()
    none = optimise_latent(z, lambda z: z, [Bowl()], GuidanceBudget(iterations=0))
    assert torch.equal(none.z, z)
    assert none.history.forwards == 0
    assert torch.equal(optimise_latent(z, lambda z: z, [Bowl()], GuidanceBudget(step_size=0.0)).z, z)


@pytest.mark.parametrize(
    "knob",
    [
        {"end_percent": 1.5}, {"iterations": -1}, {"step_size": float("nan")}, {"depth": 0}, {"growth": 0.5}, {"memory_mode": "big"},
        {"patience": -2},
    ],
)
def test_budgets_out_of_range_are_refused_by_name_and_value(knob):
    ((field_name, value),) = knob.items()
    with pytest.raises(ValueError, match=f"`{field_name}` = {value!r}".replace(".", r"\.")):
        GuidanceBudget(**knob)


def test_a_span_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="end_percent"):
        GuidanceBudget(start_percent=0.5, end_percent=0.2)


def test_the_paper_preset_has_the_papers_numbers():
    paper = PRESETS["paper"]
    assert (paper.end_percent * 50, paper.iterations, paper.step_size, paper.depth) == (5, 10, 5e-4, 1)
    assert preset_name(paper) == "paper"
    assert preset_name(GuidanceBudget(iterations=7)) == "custom"


def test_growth_doubles_the_way_of_each_update():
    z = latent()
    budgets = [GuidanceBudget(iterations=n, step_size=0.01, growth=2.0, check_last=False) for n in (1, 2, 3)]
    steps = [(optimise_latent(z, lambda z: z, [Bowl(goal=99.0)], budget).z - z).mean() for budget in budgets]
    assert torch.allclose(torch.stack(steps).abs(), torch.tensor([0.01, 0.03, 0.07]), rtol=0.02)
