/** What guidance costs at most, from its budget and the run's steps: counted as the report counts it. */

/**
 * The part of a budget that costs.
 * @typedef {{ start_percent: number, end_percent: number, iterations: number, depth: number, recomputes: boolean, checksLast: boolean }} Budget
 */
/** Steps [from, until) of a schedule of `steps`. @typedef {{ steps: number, from: number, until: number }} Run */

/** @type {Record<string, Budget>} */
export const PRESETS = {
  fast: { start_percent: 0, end_percent: 0.3, iterations: 4, depth: 0.67, recomputes: true, checksLast: true },
  paper: { start_percent: 0, end_percent: 0.1, iterations: 10, depth: 1, recomputes: true, checksLast: false },
};
export const DEFAULT_PRESET = "fast";
export const EVEN = "simple"; // the one scheduler whose steps are equal shares of the schedule, whatever the shift
const FORWARD = 1;
const BACKWARD = 2;
const SLIVER = 0.1 - 1e-6; // a step that meets the span in less of its length is not guided; a tenth may be

/** How many steps of an evenly spaced run are guided. @param {Budget} budget @param {Run} run */
export function guidedSteps({ start_percent: start, end_percent: end }, { steps, from, until }) {
  if (start >= end) return 0;
  const run = Array.from({ length: Math.max(0, until - from) }, (_, index) => from + index);
  const met = run.filter((step) => Math.min(step + 1, end * steps) - Math.max(step, start * steps) > SLIVER);
  return met.length || run.filter((step) => step <= start * steps && start * steps < step + 1).length;
}

/** Forwards of the whole model that a guided step adds. @param {Budget} budget */
export function stepCost({ iterations, depth, recomputes, checksLast }) {
  if (!iterations) return 0;
  return depth * ((iterations + Number(checksLast)) * FORWARD + iterations * (BACKWARD + (recomputes ? FORWARD : 0)));
}

/** The guided run over the plain one, whose steps take `rows` forwards each: two with CFG. @param {Budget} budget @param {Run} run @param {number} rows */
export function costFactor(budget, run, rows) {
  return 1 + (guidedSteps(budget, run) * stepCost(budget)) / (rows * (run.until - run.from));
}
