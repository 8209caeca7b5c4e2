/** What guidance costs at most, against the vectors that bind it to the report, and in the words of the line on the node. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { costFactor, EVEN, guidedSteps, PRESETS } from "../../web/budget/cost.js";
import { costLine } from "../../web/budget/line.js";

const VECTORS = JSON.parse(readFileSync(new URL("../vectors/budget.json", import.meta.url), "utf8"));

test("the presets and the scheduler with even steps are those of the vectors", () => {
  assert.deepEqual([Object.keys(PRESETS).sort(), EVEN], [[...VECTORS.presets].sort(), VECTORS.even]);
});

function budgetOf({ budget }) {
  if (typeof budget === "string") return PRESETS[budget];
  const { start_percent = 0, memory_mode = "balanced", ...knobs } = budget;
  return { start_percent, recomputes: memory_mode !== "fast", checksLast: true, ...knobs };
}

for (const vector of VECTORS.costs) {
  test(`costs: ${vector.name}`, () => {
    const [steps, from, until] = vector.run;
    assert.equal(guidedSteps(budgetOf(vector), { steps, from, until }), vector.guided);
    assert.ok(Math.abs(costFactor(budgetOf(vector), { steps, from, until }, vector.rows) - vector.factor) < 1e-9);
  });
}

const KNOBS = { start_percent: 0, end_percent: 0.2, iterations: 2, depth: 0.6, memory_mode: "balanced" };
const SETTINGS = { steps: 20, cfg: 6, scheduler: "simple", start_at_step: 0, end_at_step: 10000, budget: "fast", cfg_low_noise: 0 };

function node(type, values, rest = {}) {
  const widgets = Object.entries(values).map(([name, value]) => ({ name, value }));
  const inputs = [{ name: "model", type: "MODEL", link: null }, { name: "model_low_noise", type: "MODEL", link: null }];
  return { type, widgets, inputs: [...inputs, ...widgets.map(({ name }) => ({ name, widget: { name }, link: null }))], graph: null, ...rest };
}

const custom = (knobs) => ({ budget: "custom", ...Object.fromEntries(Object.entries({ ...KNOBS, ...knobs }).map(([name, value]) => [`budget.${name}`, value])) });
const sampler = (values = {}) => node("WanConductorGuidedKSampler", { ...SETTINGS, ...values });
const budget = (values, rest) => node("WanConductorGuidanceBudget", values, rest);

/** Link nodes into a graph: `[from, to, the name of to's input]`. */
function graphOf(nodes, wires) {
  const graph = { nodes, getNodeById: (id) => nodes[id] ?? null, getLink: (id) => ({ origin_id: nodes.indexOf(wires[id][0]), origin_slot: 0 }) };
  nodes.forEach((one) => (one.graph = graph));
  wires.forEach(([, to, name], id) => (to.inputs.find((input) => input.name === name).link = id));
}

test("the sampler's own steps, cfg and slice count", () => {
  assert.equal(costLine(sampler()), "guidance: at most 2.7x the plain run (6 of 20 steps, 4 updates each)");
  assert.equal(costLine(sampler({ cfg: 1 })), "guidance: at most 4.4x the plain run (6 of 20 steps, 4 updates each)");
  assert.equal(costLine(sampler({ steps: 4, cfg: 1 })), "guidance: at most 6.7x the plain run (2 of 4 steps, 4 updates each)");
  assert.equal(costLine(sampler({ start_at_step: 4, end_at_step: 12 })), "guidance: at most 2.4x the plain run (2 of 8 steps, 4 updates each)");
  assert.equal(costLine(sampler({ start_at_step: 10 })), "guidance: none of these steps is guided");
  assert.equal(costLine(sampler({ start_at_step: 30 })), "guidance: none of these steps is guided");
  assert.equal(costLine(sampler(custom({ iterations: 1 }))), "guidance: at most 1.3x the plain run (4 of 20 steps, 1 update each)");
});

test("a Guidance Budget knows no sampler, so it says both", () => {
  assert.equal(costLine(budget({ budget: "fast" })), "guidance: at most 2.7x the plain run, at CFG 1 4.4x (6 of 20 steps, 4 updates each)");
  assert.equal(costLine(budget({ budget: "paper" })), "guidance: at most 3.0x the plain run, at CFG 1 5.0x (2 of 20 steps, 10 updates each)");
  assert.equal(costLine(budget(custom())), "guidance: at most 1.5x the plain run, at CFG 1 2.1x (4 of 20 steps, 2 updates each)");
});

test("off is off, and a span the wrong way round is named", () => {
  assert.equal(costLine(budget(custom({ iterations: 0 }))), "guidance: off");
  assert.equal(costLine(sampler(custom({ end_percent: 0 }))), "guidance: off");
  assert.equal(costLine(sampler(custom({ start_percent: 0.5 }))), "guidance: start_percent lies after end_percent");
});

test("auto takes the nearest Guidance Budget before it, and says so where there is none", () => {
  const assumed = "guidance: at most 2.7x the plain run (6 of 20 steps, 4 updates each), unless a Guidance Budget says otherwise";
  assert.equal(costLine(sampler({ budget: "auto" })), assumed);
  const [far, near, lora, end] = [budget({ budget: "fast" }), budget({ budget: "paper" }), node("Lora", {}), sampler({ budget: "auto" })];
  const wires = [[far, near, "model"], [near, lora, "model"], [lora, end, "model"]];
  graphOf([far, near, lora, end], wires);
  assert.equal(costLine(end), "guidance: at most 3.0x the plain run (2 of 20 steps, 10 updates each)");
  near.mode = 4;
  assert.equal(costLine(end), "guidance: at most 2.7x the plain run (6 of 20 steps, 4 updates each)");
  lora.subgraph = {}; // what is inside may hold another budget
  assert.equal(costLine(end), assumed);
  delete lora.subgraph;
  graphOf([far, near, lora, end], [[lora, near, "model"], [near, lora, "model"], [lora, end, "model"]]); // a circle
  assert.equal(costLine(end), assumed);
});

test("a scheduler with uneven steps leaves open how many are guided", () => {
  const line = "guidance: a guided step costs at most 6.7x a plain one (4 updates each); how many are guided shows when it runs";
  assert.equal(costLine(sampler({ scheduler: "karras" })), line);
});

test("numbers that come through a socket count where a primitive gives them, and are unknown where another node makes them", () => {
  const [steps, end] = [node("PrimitiveInt", { value: 10 }), sampler()];
  graphOf([steps, end], [[steps, end, "steps"]]);
  assert.match(costLine(end), /3 of 10 steps/);
  steps.type = "Calculates";
  assert.match(costLine(end), /a guided step costs at most 6\.7x/);
  graphOf([steps, end], [[steps, end, "cfg"]]);
  end.inputs.find(({ name }) => name === "steps").link = null;
  assert.match(costLine(end), /at most 4\.4x/); // it may be 1
});

test("of two experts the one without a negative prompt makes the plain run cheap", () => {
  const [low, end] = [node("Loader", {}), sampler({ cfg_low_noise: 1 })];
  assert.match(costLine(end), /2\.7x/);
  graphOf([low, end], [[low, end, "model_low_noise"]]);
  assert.match(costLine(end), /4\.4x/);
});
