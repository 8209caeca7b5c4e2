/**
 * Pixel time becomes latent frames here and nowhere else (in JavaScript; guidance/latent_time.py is its twin).
 *
 * Wan's VAE has a causal stride of four: latent 0 is pixel frame 0, latent j covers pixel frames 4j-3 .. 4j.
 */

/** @typedef {import("./grammar.js").Moment} Moment */
/** @typedef {import("./grammar.js").Span} Span */
/** How long the video is: `frames` pixel frames, 4n + 1, at `fps`. @typedef {{ frames: number, fps: number }} Video */

const STRIDE = 4;
const ROUNDING = 1e-6;

/** Pixel frames of a video of that many latent frames: 4 (F - 1) + 1. @param {number} latentFrames */
export function pixelFrames(latentFrames) {
  return STRIDE * (latentFrames - 1) + 1;
}

/** Latent frames of a video of that many pixel frames, as Wan's nodes round a length. @param {number} frames */
export function latentFrames(frames) {
  return Math.floor((Math.max(1, frames) - 1) / STRIDE) + 1;
}

/** Where latent frames begin, and where the last one ends: 0, 1, 5, 9, ... @param {number} latents @returns {number[]} */
export function edges(latents) {
  return [0, ...Array.from({ length: latents }, (_, latent) => pixelFrames(latent + 1))];
}

/** The edge of a latent frame nearest to a pixel time in frames. @param {number} frame @param {Video} video */
export function snapped(frame, video) {
  if (frame < 0.5) return 0;
  const edge = pixelFrames(1 + Math.round((frame - 1) / STRIDE));
  return Math.min(Math.max(edge, 1), video.frames);
}

/** The edge before (`by` < 0) or behind (`by` > 0) a pixel time in frames. @param {number} frame @param {number} by @param {Video} video */
export function edgeBeside(frame, by, video) {
  const all = edges(latentFrames(video.frames));
  const beside = by > 0 ? all.find((edge) => edge > frame + ROUNDING) : all.findLast((edge) => edge < frame - ROUNDING);
  return beside ?? (by > 0 ? video.frames : 0);
}

/** Pixel time of a moment, in frames. @param {Moment} moment @param {Video} video */
export function frameOf(moment, video) {
  if (moment.unit === "end") return video.frames;
  return moment.value * { s: video.fps, f: 1, "%": video.frames / 100 }[moment.unit];
}

/** (start, end) of a span in pixel frames. @param {{ start: Moment, end: Moment }} span @param {Video} video @returns {[number, number]} */
export function framesOf(span, video) {
  return [frameOf(span.start, video), frameOf(span.end, video)];
}

/** Share of each latent frame that [start, end) covers, 0..1. @param {number} start @param {number} end @param {number} latents */
export function latentWeights(start, end, latents) {
  const all = edges(latents);
  return all.slice(1).map((after, latent) => {
    const first = all[latent];
    return Math.max(0, Math.min(after, end) - Math.max(first, start)) / (after - first);
  });
}

/** One span's latents as 0 and 1: weight >= 0.5; a span too short for that keeps its most covered latent. @param {number[]} weights */
export function binary(weights) {
  const mask = weights.map((weight) => Number(weight >= 0.5 - ROUNDING));
  const most = Math.max(...weights);
  if (!mask.includes(1) && most > 0) mask[weights.indexOf(most)] = 1;
  return mask;
}

/** Share of each latent frame that the spans of one line cover together. @param {{ start: Moment, end: Moment }[]} spans @param {Video} video */
export function lineWeights(spans, video) {
  const latents = latentFrames(video.frames);
  const total = new Array(latents).fill(0);
  let coveredUntil = 0;
  for (const [start, end] of spans.map((span) => framesOf(span, video)).sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    latentWeights(Math.max(start, coveredUntil), end, latents).forEach((weight, latent) => (total[latent] += weight));
    coveredUntil = Math.max(coveredUntil, end);
  }
  return total.map((weight) => Math.min(1, weight));
}

/** The latent frames of one line as 0 and 1; each of its spans keeps at least one. @param {{ start: Moment, end: Moment }[]} spans
 * @param {Video} video @returns {number[]} */
export function lineMask(spans, video) {
  const latents = latentFrames(video.frames);
  const masks = spans.map((span) => binary(latentWeights(...framesOf(span, video), latents)));
  return Array.from({ length: latents }, (_, latent) => Math.max(0, ...masks.map((mask) => mask[latent])));
}

/** Pixel time counted in latent frames: 0 at its start, 1 behind the first frame, then one every four frames. @param {number} frame */
function inLatents(frame) {
  return frame <= 1 ? frame : 1 + (frame - 1) / STRIDE;
}

/** A span moved by latent frames inside the video, from edge to edge; it keeps its length in time. @param {[number, number]} frames
 * @param {number} by @param {Video} video @returns {[number, number]} */
export function moved([start, end], by, video) {
  const all = edges(latentFrames(video.frames));
  const from = all[Math.min(Math.max(0, Math.round(inLatents(start)) + Math.round(by)), all.length - 2)];
  const to = end + from - start;
  if (to > video.frames) return [snapped(start + video.frames - end, video), video.frames];
  return [from, Math.max(snapped(to, video), edgeBeside(from, 1, video))];
}

/** How many latent frames lie between two pixel times. @param {number} from @param {number} to */
export function latentsBetween(from, to) {
  return inLatents(to) - inLatents(from);
}

/** A span with one end (0 or 1) at another pixel time, at least one latent long; `fine`: to a pixel frame, not to a latent. @param {[number, number]} frames
 * @param {0 | 1} side @param {number} to @param {Video} video @param {boolean} fine @returns {[number, number]} */
export function resized([start, end], side, to, video, fine) {
  const place = fine ? Math.min(Math.max(0, Math.round(to)), video.frames) : snapped(to, video);
  const least = (/** @type {number} */ frame, /** @type {number} */ by) => (fine ? frame + by : edgeBeside(frame, by, video));
  return side === 0 ? [Math.min(place, least(end, -1)), end] : [start, Math.max(place, least(start, 1))];
}

/** The span drawn from one pixel time to another. @param {number} from @param {number} to @param {Video} video @returns {[number, number]} */
export function drawn(from, to, video) {
  const start = snapped(Math.min(from, to), video);
  const end = snapped(Math.max(from, to), video);
  if (end > start) return [start, end];
  return start < video.frames ? [start, edgeBeside(start, 1, video)] : [edgeBeside(start, -1, video), start];
}
