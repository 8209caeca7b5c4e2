/** What the view says of spans, lengths and errors. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { readTimeline } from "../../web/timeline/model.js";
import { fpsTitle, latentTitle, lengthTitle, problemWords, status, subjectTitle, times, words } from "../../web/timeline/wording.js";

const VIDEO = { frames: 49, fps: 16 };
const FIRST = { entry: 0, span: 0 };

test("a span tells its seconds, its text, its frames and its latents", () => {
  const timeline = readTimeline("0s - 1.0625s  a cat");
  assert.equal(times(timeline, FIRST, VIDEO), "0s - 1.0625s · frames 0 to 17");
  assert.deepEqual(status(timeline, FIRST, VIDEO), { words: "0 – 1.06 s", title: "0s - 1.0625s · frames 0 to 17, 5 latent frames" });
});

test("a span that is not written is an equal share", () => {
  assert.equal(times(readTimeline("a\nb"), FIRST, VIDEO), "an equal share · frames 0 to 24.5");
});

test("words come as typed, strength included, and one part of a list alone", () => {
  assert.equal(words(readTimeline("0s - 1s  a  cat x1.5  # why"), FIRST).trim(), "a  cat x1.5");
  assert.equal(words(readTimeline("one | two", { lists: true }), { entry: 1, span: 0 }), "two");
  assert.equal(words(readTimeline(""), FIRST), "");
});

test("rate and length say where they come from, or that they are assumed", () => {
  assert.equal(fpsTitle({ value: 16, from: "Temporal Mask" }), "Frames per second: from Temporal Mask");
  assert.match(fpsTitle({ value: 16, from: null }), /assumed/);
  assert.equal(lengthTitle({ value: 49, from: "Empty Latent" }, VIDEO), "The video's length, from Empty Latent: 3.06 s, 13 latent frames.");
  assert.match(lengthTitle(null, VIDEO), /^No node tells .* not saved: 3\.06 s, 13 latent frames\.$/);
});

test("an error tells its line and column, counted from one, and what it is about", () => {
  const [problem] = readTimeline("0s - 1s a\n3q - 1s b").problems;
  const { message, title } = problemWords(problem);
  assert.equal(message, problem.message);
  assert.equal(title, `line 2, column ${problem.column}: ${message}\nClick to go there.`);
  assert.equal(problemWords({ ...problem, entry: 0, span: 0, message: "starts after the end" }).message, "this span starts after the end");
});

test("a latent frame tells its frames, and how far the chosen span covers it", () => {
  assert.equal(latentTitle(0, 0, 1, null), "latent 0: frame 0");
  assert.equal(latentTitle(2, 5, 9, 0.254), "latent 2: frames 5 to 8, covered 25 %");
});

test("lines above every header say so", () => {
  assert.match(subjectTitle(null), /above every header/);
  assert.match(subjectTitle("cat"), /^cat\n/);
});
