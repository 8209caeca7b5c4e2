/** What pointer and wheel do to the view. */

import { chosenFrames, withSpan } from "./edit.js";
import { dragged, placeAt, wheelFor } from "./gestures.js";
import { drawn, snapped } from "./latent_time.js";

/** @typedef {import("./edit.js").Chosen} Chosen */
/** @typedef {import("./gestures.js").Drag} Drag */
/** @typedef {import("./layout.js").Track} Track */
/** @typedef {import("./view.js").TimelineView} View */

const DOUBLE = 400; // milliseconds
const DRAG_STARTS = 3; // CSS pixels; less is a click

/** @param {View} view */
export function listenToPointer(view) {
  const { element } = view;
  element.addEventListener("pointerdown", (event) => press(view, event));
  element.addEventListener("pointermove", (event) => move(view, event));
  element.addEventListener("pointerup", (event) => release(view, event));
  element.addEventListener("pointercancel", () => dropDrag(view));
  element.addEventListener("pointerenter", () => view.refresh());
  element.addEventListener("pointerleave", () => view.line && (view.line.hidden = true));
  element.addEventListener("wheel", (event) => wheel(view, event), { passive: false });
}

/** Pixel time under the pointer, in frames. @param {View} view @param {MouseEvent} event */
function frameAt({ time, video }, event) {
  const box = time?.getBoundingClientRect();
  if (!box?.width) return 0;
  return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1) * video.frames;
}

/** @param {View} view @param {Event} event @returns {{ chosen: Chosen | null, side: 0 | 1 | null, track: Track } | null} */
function under(view, event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const row = /** @type {HTMLElement | null} */ (target.closest(".track"));
  if (!row || target.closest("input, .problem")) return null;
  const block = /** @type {HTMLElement | null} */ (target.closest(".block"));
  const chosen = block && { entry: Number(block.dataset.entry), span: Number(block.dataset.span) };
  const side = target.matches(".edge.start") ? 0 : target.matches(".edge.end") ? 1 : null;
  return { chosen, side, track: view.tracks[Number(row.dataset.track)] };
}

/** @param {View} view @param {PointerEvent} event */
function press(view, event) {
  if (event.button !== 0 || /** @type {HTMLElement} */ (event.target).closest("input, button")) return;
  view.element.focus({ preventScroll: true });
  const found = under(view, event);
  if (!found) return;
  const { chosen, side, track } = found;
  const again = event.timeStamp - view.pressed.at < DOUBLE && Math.abs(event.clientX - view.pressed.x) < DRAG_STARTS;
  view.pressed = { x: event.clientX, at: again ? 0 : event.timeStamp };
  const grabbed = frameAt(view, event);
  const frames = chosen ? chosenFrames(view.timeline, chosen, view.video) : drawn(grabbed, grabbed, view.video);
  view.drag = { text: view.text, chosen, subject: track.subject, side, frames, grabbed, moved: false, again };
  view.element.setPointerCapture(event.pointerId); // Nodes 2.0 keeps pointer events from reaching the document
  view.choose(chosen);
}

/** @param {View} view @param {PointerEvent} event */
function move(view, event) {
  const { drag, video } = view;
  const frame = frameAt(view, event);
  view.cursor = snapped(frame, video);
  if (view.line) {
    view.line.hidden = !drag && !under(view, event);
    view.line.style.left = `${(100 * view.cursor) / video.frames}%`;
  }
  if (!drag) return;
  if (!drag.moved && Math.abs(event.clientX - view.pressed.x) < DRAG_STARTS) return;
  drag.moved = true;
  view.element.classList.add("dragging");
  if (!drag.chosen) {
    view.editing = { kind: "new", subject: drag.subject, frames: drawn(drag.grabbed, frame, video) };
    view.render();
    return;
  }
  const edited = withSpan(drag.text, view.ground.reading, drag.chosen, dragged(drag, frame, event.altKey, video), video);
  view.draft = edited.text;
  view.chosen = edited.chosen;
  view.render();
}

/** @param {View} view @param {PointerEvent} event */
function release(view, event) {
  const { drag, draft } = view;
  if (!drag) return;
  if (view.element.hasPointerCapture(event.pointerId)) view.element.releasePointerCapture(event.pointerId);
  view.drag = null;
  view.draft = null;
  view.element.classList.remove("dragging");
  if (draft !== null && draft !== drag.text) view.commit({ text: draft, chosen: view.chosen });
  else if (drag.again && !drag.moved) open(view, drag);
  else view.render();
}

/** @param {View} view */
export function dropDrag(view) {
  if (!view.drag) return;
  view.drag = null;
  view.draft = null;
  if (view.editing?.kind === "new") view.editing = null;
  view.element.classList.remove("dragging");
  view.render();
}

/** A double click, counted here: the elements of the first click are not those of the second. @param {View} view @param {Drag} drag */
function open(view, { chosen, subject, grabbed }) {
  if (chosen) view.startEditing({ kind: "words", chosen });
  else view.startEditing({ kind: "new", subject, frames: placeAt(grabbed, view.video) });
}

/** @param {View} view @param {WheelEvent} event */
function wheel(view, event) {
  const { scroll } = view;
  const body = scroll?.parentElement;
  const { ctrlKey, shiftKey, deltaX, deltaY } = event;
  const whose = wheelFor({
    own: view.element.contains(document.activeElement),
    ctrlKey, shiftKey, deltaX, deltaY,
    wide: Boolean(scroll && scroll.scrollWidth > scroll.clientWidth),
    high: Boolean(body && body.scrollHeight > body.clientHeight),
  });
  if (whose === "graph") return view.ground.zoomGraph(event);
  event.stopPropagation();
  if (whose === "scroll") return;
  event.preventDefault();
  view.zoomTo(view.zoom * Math.exp(-deltaY / 300), event.clientX);
}
