/** What hands ask for, in frames: no element is needed to tell. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { MOST_ZOOM, dragged, nudged, placeAt, placeOfNew, placeOfSplit, wheelFor, zoomWithin } from "../../web/timeline/gestures.js";
import { key } from "../../web/timeline/keyboard.js";
import { tracksOf } from "../../web/timeline/layout.js";
import { readTimeline } from "../../web/timeline/model.js";

const VIDEO = { frames: 49, fps: 16 }; // latent edges at 0, 1, 5, 9, ... 49
const dragOf = (side, grabbed = 10) => ({ frames: [9, 17], side, grabbed });

test("a span is dragged by whole latents, and stays in the video", () => {
  assert.deepEqual(dragged(dragOf(null), 14, false, VIDEO), [13, 21]);
  assert.deepEqual(dragged(dragOf(null), 11, false, VIDEO), [9, 17]);
  assert.deepEqual(dragged(dragOf(null), 49, false, VIDEO), [41, 49]);
});

test("with Alt it is dragged by single frames, as far as the video goes", () => {
  assert.deepEqual(dragged(dragOf(null), 12.2, true, VIDEO), [11, 19]);
  assert.deepEqual(dragged(dragOf(null), 0, true, VIDEO), [0, 8]);
  assert.deepEqual(dragged(dragOf(null, 0), 49, true, VIDEO), [41, 49]);
});

test("one end is dragged alone and never past the other", () => {
  assert.deepEqual(dragged(dragOf(0), 4, false, VIDEO), [5, 17]);
  assert.deepEqual(dragged(dragOf(1), 29.5, false, VIDEO), [9, 29]);
  assert.deepEqual(dragged(dragOf(1), 2, false, VIDEO), [9, 13]);
  assert.deepEqual(dragged(dragOf(1), 26.6, true, VIDEO), [9, 27]);
});

test("arrows move a span, its start or its end by one latent", () => {
  assert.deepEqual(nudged([9, 17], 1, null, VIDEO), [13, 21]);
  assert.deepEqual(nudged([9, 17], -1, 0, VIDEO), [5, 17]);
  assert.deepEqual(nudged([9, 17], 1, 1, VIDEO), [9, 21]);
});

test("a new line goes behind the chosen span of the same subject, else to the cursor and the last subject", () => {
  const timeline = readTimeline("cat:\n  0s - 1s  sits\ndog:\n  always  sleeps");
  const tracks = tracksOf(timeline, VIDEO, true);
  assert.deepEqual(placeOfNew(timeline, tracks, { entry: 0, span: 0 }, 40, VIDEO), { subject: "cat", frames: [17, 33] });
  assert.deepEqual(placeOfNew(timeline, tracks, null, 5, VIDEO), { subject: "dog", frames: [5, 21] });
  assert.deepEqual(placeOfNew(timeline, tracks, { entry: 1, span: 0 }, 0, VIDEO), { subject: "dog", frames: [45, 49] });
  assert.deepEqual(placeAt(6, VIDEO), [5, 21]);
});

test("a span is split at the cursor where that is inside, else in its middle", () => {
  assert.equal(placeOfSplit([9, 25], 13, VIDEO), 13);
  for (const outside of [9, 25, 40]) assert.equal(placeOfSplit([9, 25], outside, VIDEO), 17);
});

test("zoom stays between the whole video and its most", () => {
  assert.deepEqual([0.2, 3, 1000].map(zoomWithin), [1, 3, MOST_ZOOM]);
});

test("the wheel is the graph's unless the view has the keyboard and something to zoom or scroll", () => {
  const wheel = { own: true, ctrlKey: false, shiftKey: false, deltaX: 0, deltaY: 100, wide: true, high: false };
  assert.equal(wheelFor(wheel), "graph");
  assert.equal(wheelFor({ ...wheel, high: true }), "scroll");
  assert.equal(wheelFor({ ...wheel, shiftKey: true }), "scroll");
  assert.equal(wheelFor({ ...wheel, deltaX: -120 }), "scroll");
  assert.equal(wheelFor({ ...wheel, shiftKey: true, wide: false, high: true }), "graph");
  assert.equal(wheelFor({ ...wheel, ctrlKey: true }), "zoom");
  assert.equal(wheelFor({ ...wheel, own: false, ctrlKey: true, high: true }), "graph");
});

/** The calls that a key makes, and whether the editor still gets it. */
function pressed(name, { modifiers = {}, linked = false, answer = undefined } = {}) {
  const calls = [];
  const note = (method) => (...given) => (calls.push([method, ...given]), answer);
  const view = { element: {}, chosen: { entry: 0, span: 0 }, drag: null, zoom: 2, ground: { linked: () => linked } };
  for (const method of ["nudge", "across", "next", "startEditing", "remove", "choose", "split", "startNew", "strengthen", "zoomTo"]) {
    view[method] = note(method);
  }
  let kept = false;
  const keep = () => (kept = true);
  key(view, { key: name, target: view.element, preventDefault: keep, stopPropagation: keep, ...modifiers });
  return { calls, kept };
}

test("each key does one thing and is kept from the editor", () => {
  const expected = {
    ArrowLeft: ["nudge", -1, null], ArrowDown: ["across", 1], Tab: ["next", 1], Delete: ["remove"], Escape: ["choose", null], S: ["split"],
    n: ["startNew"], "]": ["strengthen", 0.25], "+": ["zoomTo", 3], 0: ["zoomTo", 1],
    Enter: ["startEditing", { kind: "words", chosen: { entry: 0, span: 0 } }],
  };
  for (const [name, call] of Object.entries(expected)) assert.deepEqual(pressed(name), { calls: [call], kept: true });
});

test("Shift moves the end of a span and Alt its start", () => {
  assert.deepEqual(pressed("ArrowRight", { modifiers: { shiftKey: true } }).calls, [["nudge", 1, 1]]);
  assert.deepEqual(pressed("ArrowRight", { modifiers: { altKey: true } }).calls, [["nudge", 1, 0]]);
});

test("undo, copy and what does nothing here stay the editor's", () => {
  assert.deepEqual(pressed("z", { modifiers: { ctrlKey: true } }), { calls: [], kept: false });
  assert.deepEqual(pressed("s", { modifiers: { metaKey: true } }), { calls: [], kept: false });
  assert.deepEqual(pressed("q"), { calls: [], kept: false });
  assert.equal(pressed("ArrowLeft", { answer: false }).kept, false);
  assert.deepEqual(pressed("s", { modifiers: { target: "another element" } }), { calls: [], kept: false });
});

test("a text from another node is looked through, not changed", () => {
  assert.deepEqual(pressed("Delete", { linked: true }), { calls: [], kept: false });
  assert.deepEqual(pressed("Tab", { linked: true }).calls, [["next", 1]]);
});
