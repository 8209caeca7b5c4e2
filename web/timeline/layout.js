/** Where everything of a timeline stands, in shares of the video's length and in rows. */

import { frameOf } from "./latent_time.js";
import { outside, subjects } from "./model.js";

/** @typedef {import("./model.js").Timeline} Timeline */
/** @typedef {import("./model.js").Problem} Problem */
/** @typedef {import("./latent_time.js").Video} Video */
/**
 * One span as a block: `start` and `end` in pixel frames, cut to the video.
 * @typedef {{ entry: number, span: number, lane: number, start: number, end: number, label: string, strength: number, problem: Problem | null }} Block
 */
/** @typedef {{ subject: string | null, lanes: number, blocks: Block[], problems: Problem[] }} Track */

export const HEIGHT = { toolbar: 30, ruler: 26, lane: 26, problem: 20, gap: 4, most: 420 };
const STEPS = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300];
const LABEL_WIDTH = 46;

/** One track per subject; spans that overlap stand in lanes of their own. @param {Timeline} timeline @param {Video} video @param {boolean} sure
 * whether the video's length is known @param {Problem[]} [missing] @returns {Track[]} */
export function tracksOf(timeline, video, sure, missing = []) {
  const wrong = [...(sure ? outside(timeline, video) : []), ...missing];
  const tracks = subjects(timeline).map((subject) => trackOf(timeline, video, subject, wrong));
  return tracks.length ? tracks : [{ subject: null, lanes: 1, blocks: [], problems: [] }];
}

/** @param {Timeline} timeline @param {Video} video @param {string | null} subject @param {Problem[]} wrong @returns {Track} */
function trackOf(timeline, video, subject, wrong) {
  /** @type {Block[]} */
  const blocks = [];
  timeline.entries.forEach((entry, index) => {
    if (entry.subject !== subject) return;
    entry.shown.forEach((span, at) => {
      const start = Math.min(frameOf(span.start, video), video.frames);
      const end = Math.max(start, Math.min(frameOf(span.end, video), video.frames));
      const problem = wrong.find((found) => found.entry === index && (found.span ?? at) === at) ?? null;
      blocks.push({ entry: index, span: at, lane: 0, start, end, label: entry.body, strength: entry.strength, problem });
    });
  });
  /** @type {number[]} */
  const until = []; // where each lane is free again
  for (const block of [...blocks].sort((a, b) => a.start - b.start || a.entry - b.entry)) {
    const free = until.findIndex((end) => end <= block.start + 1e-6);
    block.lane = free < 0 ? until.length : free;
    until[block.lane] = Math.max(block.end, block.start + 1e-3);
  }
  const problems = [...timeline.problems, ...wrong].filter((problem) => problem.subject === subject).sort((a, b) => a.line - b.line);
  const lanes = until.length || (problems.length ? 0 : 1);
  return { subject, lanes, blocks, problems };
}

/** @param {Track} track */
export function trackHeight({ lanes, problems }) {
  return lanes * HEIGHT.lane + problems.length * HEIGHT.problem + HEIGHT.gap;
}

/** Height of the whole view in CSS pixels; tracks beyond that are scrolled. @param {Track[]} tracks */
export function viewHeight(tracks) {
  const height = tracks.reduce((total, track) => total + trackHeight(track), HEIGHT.toolbar + HEIGHT.ruler + HEIGHT.gap);
  return Math.min(height, HEIGHT.most);
}

/** The labelled times of the ruler, so far apart that their labels fit. @param {Video} video @param {number} width of the video in CSS pixels
 * @returns {{ frame: number, label: string }[]} */
export function ticks(video, width) {
  const perSecond = (width / video.frames) * video.fps;
  const step = STEPS.find((seconds) => seconds * perSecond >= LABEL_WIDTH) ?? STEPS[STEPS.length - 1];
  const count = Math.floor(video.frames / video.fps / step + 1e-6);
  const all = Array.from({ length: count + 1 }, (_, tick) => {
    const seconds = Number((tick * step).toFixed(3));
    const frame = seconds * video.fps;
    return { frame, label: ((video.frames - frame) / video.frames) * width < LABEL_WIDTH / 2 ? "" : `${seconds}s` };
  });
  return all.filter(({ frame }) => frame <= video.frames);
}

/** The block before or behind another one in reading order: by subject, then by time. @param {Track[]} tracks
 * @param {{ entry: number, span: number } | null} chosen @param {number} by -1 or 1 */
export function blockBeside(tracks, chosen, by) {
  const all = tracks.flatMap(({ blocks }) => [...blocks].sort((a, b) => a.start - b.start || a.lane - b.lane));
  const at = all.findIndex((block) => block.entry === chosen?.entry && block.span === chosen?.span);
  return all[at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by] ?? null;
}

/** The block of the track above or below that lies nearest in time. @param {Track[]} tracks @param {{ entry: number, span: number }} chosen
 * @param {number} by -1 or 1 */
export function blockAcross(tracks, chosen, by) {
  const rows = tracks.flatMap(({ blocks, lanes }) => Array.from({ length: lanes }, (_, lane) => blocks.filter((block) => block.lane === lane)));
  const filled = rows.filter((blocks) => blocks.length);
  const is = (/** @type {Block} */ block) => block.entry === chosen.entry && block.span === chosen.span;
  const row = filled.findIndex((blocks) => blocks.some(is));
  const from = filled[row]?.find(is);
  const there = filled[row + by];
  if (!from || !there) return null;
  const distance = (/** @type {Block} */ block) => Math.abs(block.start + block.end - from.start - from.end);
  return there.reduce((best, block) => (distance(block) < distance(best) ? block : best));
}

const SHOWN = { line: 16, padding: 16, sides: 56, character: 6.3, most: 200 };

/** Height in CSS pixels of a text that a node of that width shows. @param {string} text @param {number} width */
export function shownTextHeight(text, width) {
  const room = Math.max(10, (width - SHOWN.sides) / SHOWN.character);
  const rows = text.split("\n").reduce((total, line) => total + Math.max(1, Math.ceil(line.length / room)), 0);
  return Math.min(SHOWN.most, rows * SHOWN.line + SHOWN.padding);
}
