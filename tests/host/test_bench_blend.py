"""`bench blend`: as many model calls on both sides, memory as counted by hand, and the keys that scripts read."""

import json
from dataclasses import replace

import pytest
from wan_conductor.development.benchmarks import blend
from wan_conductor.development.wan_block import SHAPES
from wan_conductor.guidance.kv_sharing import KVSharing
from wan_conductor.host.blend_windows import RunningBlend
from wan_conductor.playground import network
from wan_conductor.playground.evaluate_blend import BLEND
from wan_conductor.playground.sampling import Playground

with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


def test_keys_and_values_of_real_models_are_counted_as_the_paper_shares_them():
    # 5 of 30 and 7 of 40 blocks, k and v, two sides, 32,760 tokens, 16 bits
    assert blend.real_kv_bytes(SHAPES["1.3B"]) == 5 * 2 * 2 * 32760 * 1536 * 2
    assert blend.real_kv_bytes(SHAPES["14B"]) == 7 * 2 * 2 * 32760 * 5120 * 2


@with_weights
def test_the_command_prints_the_keys_of_the_issue_and_plain_windows_are_as_many_model_calls(capsys, monkeypatch):
    playground, calls, steps, blended_steps = Playground(1), {}, [], []
    monkeypatch.setattr(blend, "Playground", lambda steps: playground)
    execute = RunningBlend.execute
    monkeypatch.setattr(RunningBlend, "execute", lambda self, *args: blended_steps.append(1) or execute(self, *args))

    def once_each(kinds, repeats, on_gpu):
        for name, work in kinds.items():
            del steps[:], blended_steps[:]
            work()
            calls.setdefault(name, []).append((len(steps), len(blended_steps)))
        return {name: [1.0] for name in kinds}

    monkeypatch.setattr(blend, "interleaved", once_each)
    hook = playground.model.model.diffusion_model.register_forward_pre_hook(lambda *_: steps.append(1))
    try:
        blend.main(["--prompts", "2", "3", "--steps", "1", "--json"])
    finally:
        hook.remove()
    # three and five windows: as many calls on both sides, whether the host batches the two prompts or not
    each = calls["plain"][0][0] // 3
    assert each in (1, 2) and calls == {"plain": [(3 * each, 0), (5 * each, 0)], "blended": [(3 * each, 1), (5 * each, 1)]}
    result = json.loads(capsys.readouterr().out)
    two, three = result["by_prompts"]["2"], result["by_prompts"]["3"]
    assert (two["windows"], three["windows"]) == (3, 5)
    assert result["passes_per_step"] == two["passes_per_step"] == 3 and three["passes_per_step"] == 5
    # one block of five: k and v of 13 x 4 x 4 tokens, 192 wide, in fp32, for two sides, however many windows there are
    assert result["kv_bytes"] == two["kv_bytes"] == three["kv_bytes"] == 2 * 2 * 208 * 192 * 4
    assert two["time_ratio"] == result["time_ratio"] == 1.0
    assert three["peak_bytes"]["blended"] > two["peak_bytes"]["blended"] > 0


@with_weights
def test_the_official_plan_takes_more_passes():
    faithful = replace(BLEND, repeats=(1, 1), sharing=KVSharing(), plan="faithful")
    _, report = blend.kinds_of(Playground(1), faithful)["blended"]()
    assert report.patches[0].measured["passes"] == 4  # 2 (S - 1), S = 3 windows


def test_one_prompt_is_refused(capsys):
    with pytest.raises(SystemExit):
        blend.main(["--prompts", "1"])
    assert "--prompts 1" in capsys.readouterr().err
