/** Fields in which words are typed over a span or in place of a subject. */

import { made } from "./elements.js";
import { HEIGHT } from "./layout.js";

/** @typedef {import("./view.js").TimelineView} View */

/** Enter and leaving it take what is typed, Escape drops it. @param {View} view @param {string} value @param {string} hint
 * @param {(said: string) => void} done */
export function field(view, value, hint, done) {
  const input = made("input");
  input.value = value;
  input.placeholder = hint;
  let open = true;
  const close = (/** @type {boolean} */ take) => {
    if (!open) return;
    open = false;
    view.editing = null;
    if (take && input.value.trim() && input.value !== value) done(input.value);
    else view.render();
  };
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    close(event.key === "Enter");
    view.element.focus({ preventScroll: true });
  });
  input.addEventListener("blur", () => view.rendering || close(true));
  return input;
}

/** A field over a span. @param {View} view @param {[number, number]} frames @param {number} lane @param {string} value @param {string} hint
 * @param {(said: string) => void} done */
export function overlay(view, [start, end], lane, value, hint, done) {
  const total = view.video.frames;
  const input = field(view, value, hint, done);
  input.classList.add("editor");
  const width = `min(100%, max(180px, ${(100 * (end - start)) / total}%))`;
  input.style.width = width;
  input.style.left = `min(${(100 * start) / total}%, 100% - ${width})`;
  input.style.top = `${lane * HEIGHT.lane + 2}px`;
  return input;
}
