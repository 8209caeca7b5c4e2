/** What the view says in words and numbers. */

import { chosenFrames } from "./edit.js";
import { plainNumber, writtenSpan } from "./grammar.js";
import { framesOf, latentFrames, latentsBetween } from "./latent_time.js";

/** @typedef {import("./edit.js").Chosen} Chosen */
/** @typedef {import("./latent_time.js").Video} Video */
/** @typedef {import("./model.js").Timeline} Timeline */
/** @typedef {import("./neighbours.js").Found} Found */

export const KEYS =
  "Drag a span to move it, its ends to resize it, an empty place to add one; Alt: to a single frame. Double-click: write its words.\n" +
  "Keys: Tab next span, arrows move it, Shift+arrows its end, Alt+arrows its start, Up/Down other row, Enter words, S split, N new, " +
  "Delete, [ and ] strength, + - 0 zoom, Ctrl+Z undo.";

/** @param {number} frame @param {Video} video */
function seconds(frame, video) {
  return plainNumber(Number((frame / video.fps).toFixed(2)));
}

/** @param {Found} fps */
export function fpsTitle({ from }) {
  return from ? `Frames per second: from ${from}` : "Frames per second: assumed. Type another, and the node's fps is set.";
}

/** @param {Found | null} frames @param {Video} video */
export function lengthTitle(frames, video) {
  const length = `${seconds(video.frames, video)} s, ${latentFrames(video.frames)} latent frames`;
  if (frames) return `The video's length, from ${frames.from}: ${length}.`;
  return `No node tells the video's length; this one is only for looking and is not saved: ${length}.`;
}

/** When a span is: in seconds for a glance, and all of it. @param {Timeline} timeline @param {Chosen} chosen @param {Video} video */
export function status(timeline, chosen, video) {
  const [start, end] = chosenFrames(timeline, chosen, video);
  const latents = Math.round(10 * latentsBetween(start, end)) / 10;
  return {
    words: `${seconds(start, video)} – ${seconds(end, video)} s`,
    title: `${times(timeline, chosen, video)}, ${latents} latent frames`,
  };
}

/** A span as written, and in frames. @param {Timeline} timeline @param {Chosen} chosen @param {Video} video */
export function times(timeline, { entry, span }, video) {
  const { shown, spans } = timeline.entries[entry] ?? { shown: [], spans: [] };
  const [start, end] = framesOf(shown[span], video);
  const round = (/** @type {number} */ frame) => plainNumber(Number(frame.toFixed(2)));
  const written = spans.length ? writtenSpan(shown[span]) : "an equal share";
  return `${written} · frames ${round(start)} to ${round(end)}`;
}

/** The words of an entry as typed, strength included. @param {Timeline} timeline @param {Chosen} chosen */
export function words(timeline, { entry }) {
  const said = timeline.entries[entry];
  if (!said) return "";
  if (said.listed) return said.body;
  return timeline.lines[said.line].source.code.slice(said.from);
}

/** @param {string | null} subject */
export function subjectTitle(subject) {
  return subject === null ? "Lines above every header. Double-click to name their subject." : `${subject}\nDouble-click to rename.`;
}

/** What is wrong with a line, and where. @param {import("./model.js").Problem} problem */
export function problemWords(problem) {
  const message = problem.span === undefined ? problem.message : `this span ${problem.message}`;
  return { message, title: `line ${problem.line + 1}, column ${problem.column}: ${message}\nClick to go there.` };
}

/** Latent frame number `latent`, which is frames `first` to before `after`. @param {number} latent @param {number} first @param {number} after
 * @param {number | null} weight how far the chosen span covers it, if one is chosen */
export function latentTitle(latent, first, after, weight) {
  const title = `latent ${latent}: ${after - first === 1 ? `frame ${first}` : `frames ${first} to ${after - 1}`}`;
  return weight === null ? title : `${title}, covered ${Math.round(100 * weight)} %`;
}
