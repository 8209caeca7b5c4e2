/** The line on Guided KSampler and Guidance Budget: what guidance costs at most, in words, read from the graph. */

import { originOf } from "../timeline/neighbours.js";
import { costFactor, DEFAULT_PRESET, EVEN, guidedSteps, PRESETS, stepCost } from "./cost.js";

/** @typedef {import("./cost.js").Budget} Budget */
/** @typedef {import("./cost.js").Run} Run */
/** @typedef {import("../timeline/neighbours.js").Node} Node */

export const SAMPLER = "WanConductorGuidedKSampler";
export const BUDGET = "WanConductorGuidanceBudget";
const USUAL_STEPS = 20;
const ACTIVE = 0; // else the node is muted or bypassed

/** @param {Node} node @returns {string} the line; empty where the graph does not tell the budget */
export function costLine(node) {
  return node.type === SAMPLER ? ofSampler(node) : ofBudget(node);
}

/** Steps and CFG are the sampler's affair. @param {Node} node */
function ofBudget(node) {
  const budget = budgetOn(node);
  if (!budget) return "";
  const run = { steps: USUAL_STEPS, from: 0, until: USUAL_STEPS };
  return isOff(budget) ?? `${total(budget, run, 2)}, at CFG 1 ${times(costFactor(budget, run, 1))} ${spent(budget, run)}`;
}

/** @param {Node} node */
function ofSampler(node) {
  const auto = valueOf(node, "budget") === "auto";
  const before = auto ? budgetBefore(node) : node;
  const budget = before ? budgetOn(before) : PRESETS[DEFAULT_PRESET];
  if (!budget) return "";
  return said(node, budget) + (before ? "" : ", unless a Guidance Budget says otherwise");
}

/** @param {Node} node @param {Budget} budget */
function said(node, budget) {
  const off = isOff(budget);
  if (off) return off;
  const run = runOf(node);
  const rows = rowsOf(node);
  if (!run || valueOf(node, "scheduler") !== EVEN) {
    const step = times(1 + stepCost(budget) / rows);
    return `guidance: a guided step costs at most ${step} a plain one (${updates(budget)}); how many are guided shows when it runs`;
  }
  if (!guidedSteps(budget, run)) return "guidance: none of these steps is guided";
  return `${total(budget, run, rows)} ${spent(budget, run)}`;
}

/** @param {Budget} budget */
function isOff({ start_percent, end_percent, iterations }) {
  if (start_percent > end_percent) return "guidance: start_percent lies after end_percent";
  return start_percent === end_percent || !iterations ? "guidance: off" : null;
}

/** @param {Budget} budget @param {Run} run @param {number} rows */
function total(budget, run, rows) {
  return `guidance: at most ${times(costFactor(budget, run, rows))} the plain run`;
}

/** @param {Budget} budget @param {Run} run */
function spent(budget, run) {
  return `(${guidedSteps(budget, run)} of ${run.until - run.from} steps, ${updates(budget)})`;
}

/** @param {Budget} budget */
function updates({ iterations }) {
  return iterations === 1 ? "1 update each" : `${iterations} updates each`;
}

/** @param {number} factor */
function times(factor) {
  return `${factor.toFixed(1)}x`;
}

/** The budget of a node's own widgets. @param {Node} node @returns {Budget | null} */
function budgetOn(node) {
  const key = valueOf(node, "budget");
  if (key !== "custom") return PRESETS[key] ?? null;
  const [start_percent, end_percent, iterations, depth] = ["start_percent", "end_percent", "iterations", "depth"].map((knob) =>
    Number(valueOf(node, `budget.${knob}`)),
  );
  const known = [start_percent, end_percent, iterations, depth].every(Number.isFinite);
  const recomputes = valueOf(node, "budget.memory_mode") !== "fast";
  return known ? { start_percent, end_percent, iterations, depth, recomputes, checksLast: true } : null;
}

/** The nearest Guidance Budget before a node along its model, as far as the graph outside other subgraphs tells. @param {Node} node */
function budgetBefore(node) {
  const seen = new Set([node]);
  for (let at = node; ; ) {
    const input = at.inputs?.find(({ type }) => type === "MODEL" || type === "*");
    const before = input && originOf(at, input);
    if (!before || before.subgraph || seen.has(before)) return null;
    if (before.type === BUDGET && (before.mode ?? ACTIVE) === ACTIVE) return before;
    seen.add(before);
    at = before;
  }
}

/** @param {Node} node @returns {Run | null} */
function runOf(node) {
  const [steps, start, end] = ["steps", "start_at_step", "end_at_step"].map((name) => valueOf(node, name));
  if (![steps, start, end].every(Number.isFinite)) return null;
  const until = Math.min(end, steps);
  return { steps, from: Math.min(start, until), until };
}

/** Forwards of a plain step; of two experts the fewer, so that the whole is still the most. @param {Node} node */
function rowsOf(node) {
  const pair = node.inputs?.some(({ name, link }) => name === "model_low_noise" && link != null);
  const cfgs = [valueOf(node, "cfg") ?? 1, pair ? (valueOf(node, "cfg_low_noise") ?? 1) : 0];
  return cfgs.includes(1) ? 1 : 2;
}

/** A widget's value, or that of the primitive linked to it; undefined where another node makes it. @param {Node} node @param {string} name */
function valueOf(node, name) {
  const input = node.inputs?.find(({ widget }) => widget?.name === name);
  if (!input || input.link == null) return node.widgets?.find((widget) => widget.name === name)?.value;
  const origin = originOf(node, input);
  return origin?.type.startsWith("Primitive") ? origin.widgets?.[0]?.value : undefined;
}
