/** What drags, arrows, wheel and zoom mean in frames: no element is touched here. */

import { chosenFrames } from "./edit.js";
import { drawn, edgeBeside, latentsBetween, moved, resized, snapped } from "./latent_time.js";

/** @typedef {import("./edit.js").Chosen} Chosen */
/** @typedef {import("./latent_time.js").Video} Video */
/** @typedef {import("./layout.js").Track} Track */
/** @typedef {import("./model.js").Timeline} Timeline */
/** @typedef {{ text: string, chosen: Chosen | null, subject: string | null, side: 0 | 1 | null, frames: [number, number], grabbed: number,
 *   moved: boolean, again: boolean }} Drag */

export const MOST_ZOOM = 32;

/** Where a dragged span is now. @param {Pick<Drag, "frames" | "side" | "grabbed">} drag @param {number} frame under the pointer
 * @param {boolean} fine to single frames @param {Video} video @returns {[number, number]} */
export function dragged({ frames, side, grabbed }, frame, fine, video) {
  if (side !== null) return resized(frames, side, frame, video, fine);
  if (!fine) return moved(frames, latentsBetween(grabbed, frame), video);
  const by = Math.min(Math.max(Math.round(frame - grabbed), -frames[0]), video.frames - frames[1]);
  return [frames[0] + by, frames[1] + by];
}

/** A span moved by one latent, or one of its ends. @param {[number, number]} frames @param {number} by @param {0 | 1 | null} side
 * @param {Video} video */
export function nudged(frames, by, side, video) {
  return side === null ? moved(frames, by, video) : resized(frames, side, edgeBeside(frames[side], by, video), video, false);
}

/** Where a double click in an empty place makes a span: a second from there. @param {number} grabbed @param {Video} video */
export function placeAt(grabbed, video) {
  const frame = snapped(grabbed, video);
  return drawn(frame, frame + video.fps, video);
}

/** Where a new line goes: after the chosen span, or at the cursor. @param {Timeline} timeline @param {Track[]} tracks
 * @param {Chosen | null} chosen @param {number} cursor @param {Video} video
 * @returns {{ subject: string | null, frames: [number, number] }} */
export function placeOfNew(timeline, tracks, chosen, cursor, video) {
  const subject = chosen ? timeline.entries[chosen.entry].subject : (tracks.at(-1)?.subject ?? null);
  const end = chosen ? chosenFrames(timeline, chosen, video)[1] : cursor;
  const from = end < video.frames ? end : edgeBeside(video.frames, -1, video);
  return { subject, frames: drawn(from, from + video.fps, video) };
}

/** Where a span is split: at the cursor where that is inside, else in its middle. @param {[number, number]} frames @param {number} cursor
 * @param {Video} video */
export function placeOfSplit([start, end], cursor, video) {
  return cursor > start && cursor < end ? cursor : snapped((start + end) / 2, video);
}

/** @param {number} zoom */
export function zoomWithin(zoom) {
  return Math.min(Math.max(1, zoom), MOST_ZOOM);
}

/** Whose the wheel is. `own`: the view has the keyboard; `wide`, `high`: there is more than fits.
 * @param {{ own: boolean, ctrlKey: boolean, shiftKey: boolean, deltaX: number, deltaY: number, wide: boolean, high: boolean }} wheel
 * @returns {"zoom" | "scroll" | "graph"} */
export function wheelFor({ own, ctrlKey, shiftKey, deltaX, deltaY, wide, high }) {
  const sideways = shiftKey || Math.abs(deltaX) > Math.abs(deltaY);
  if (own && ctrlKey) return "zoom";
  return own && (sideways ? wide : high) ? "scroll" : "graph";
}
