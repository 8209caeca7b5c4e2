/** What keys do to the view. */

import { dropDrag } from "./pointer.js";

/** @typedef {import("./view.js").TimelineView} View */

/** @param {View} view @param {KeyboardEvent} event */
export function key(view, event) {
  if (event.target !== view.element || event.ctrlKey || event.metaKey) return; // the graph's undo, copy and paste stay the graph's
  const act = actions(view, event)[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || (view.ground.linked() && event.key !== "Tab")) return;
  if (act() === false) return;
  event.preventDefault();
  event.stopPropagation();
}

/** What each key does; false: nothing, and the editor may have it. @param {View} view @param {KeyboardEvent} event
 * @returns {Record<string, () => unknown>} */
function actions(view, { shiftKey, altKey }) {
  const arrow = (/** @type {number} */ by) => view.nudge(by, altKey ? 0 : shiftKey ? 1 : null);
  return {
    ArrowLeft: () => arrow(-1),
    ArrowRight: () => arrow(1),
    ArrowUp: () => view.across(-1),
    ArrowDown: () => view.across(1),
    Tab: () => view.next(shiftKey ? -1 : 1),
    Enter: () => view.chosen && view.startEditing({ kind: "words", chosen: view.chosen }),
    F2: () => view.chosen && view.startEditing({ kind: "words", chosen: view.chosen }),
    Delete: () => view.remove(),
    Backspace: () => view.remove(),
    Escape: () => (view.drag ? dropDrag(view) : view.chosen ? view.choose(null) : view.element.blur()),
    s: () => view.split(),
    n: () => view.startNew(),
    "[": () => view.strengthen(-0.25),
    "]": () => view.strengthen(0.25),
    "+": () => view.zoomTo(view.zoom * 1.5),
    "=": () => view.zoomTo(view.zoom * 1.5),
    "-": () => view.zoomTo(view.zoom / 1.5),
    0: () => view.zoomTo(1),
  };
}
