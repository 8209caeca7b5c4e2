/** The JavaScript reader against the vectors that bind the Python one. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { writtenSpan } from "../../web/timeline/grammar.js";
import { binary, latentWeights, lineMask, lineWeights, pixelFrames } from "../../web/timeline/latent_time.js";
import { outside, readTimeline } from "../../web/timeline/model.js";

const VECTORS = JSON.parse(readFileSync(new URL("../vectors/timeline.json", import.meta.url), "utf8"));

function close(actual, expected) {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, index) => assert.ok(Math.abs(value - expected[index]) < 1e-6, `${actual} is not ${expected}`));
}

for (const section of ["parse", "errors", "outside", "inside", "normalise", "latent_weights", "line_weights"]) {
  test(`there are vectors for ${section}`, () => assert.ok(VECTORS[section].length > 5));
}

for (const vector of VECTORS.parse) {
  test(`reads: ${vector.name}`, () => {
    const timeline = readTimeline(vector.text);
    assert.deepEqual(timeline.problems, []);
    assert.equal(timeline.equalShares, vector.equal_shares);
    const read = timeline.entries.map(({ subject, body, shown, strength, line }, index) => {
      const spans = vector.lines[index]?.spans === null ? null : shown.map(writtenSpan);
      return { subject, body, spans, strength, line: line + 1 };
    });
    assert.deepEqual(read, vector.lines);
  });

  test(`a body is where it says: ${vector.name}`, () => {
    const timeline = readTimeline(vector.text);
    for (const { body, line, from, to } of timeline.entries) assert.equal(timeline.lines[line].source.code.slice(from, to), body);
    for (const { subject, line, from, to } of timeline.headers) assert.equal(timeline.lines[line].source.code.slice(from, to), subject);
  });

  test(`its normal form reads as the same: ${vector.name}`, () => {
    const said = (text) => readTimeline(text).entries.map(({ subject, body, shown, strength }) => [subject, body, shown.map(writtenSpan), strength]);
    assert.deepEqual(said(vector.format), said(vector.text));
  });
}

for (const vector of VECTORS.errors) {
  test(`refuses: ${vector.name}`, () => {
    const [problem] = readTimeline(vector.text).problems;
    assert.ok(problem, "nothing is wrong");
    assert.deepEqual([problem.line + 1, problem.column], [vector.line, vector.column]);
    assert.ok(problem.message.includes(vector.says), problem.message);
  });
}

for (const vector of VECTORS.outside) {
  test(`outside the video: ${vector.name}`, () => {
    const [problem] = outside(readTimeline(vector.text), { frames: pixelFrames(vector.latent_frames), fps: vector.fps });
    assert.deepEqual([problem.line + 1, problem.column], [vector.line, vector.column]);
    assert.ok(problem.message.includes(vector.says), problem.message);
  });
}

for (const vector of VECTORS.inside) {
  test(`inside the video: ${JSON.stringify(vector.text)}`, () => {
    assert.deepEqual(outside(readTimeline(vector.text), { frames: pixelFrames(vector.latent_frames), fps: vector.fps }), []);
  });
}

for (const vector of VECTORS.normalise) {
  test(`pasted text reads as the plain lines it stands for: ${vector.name}`, () => {
    const said = ({ entries, problems }) => [entries.map(({ subject, body, spans, strength }) => [subject, body, spans.map(writtenSpan), strength]), problems.length];
    assert.deepEqual(said(readTimeline(vector.text, { bullets: true, lists: vector.lists })), said(readTimeline(vector.gives)));
  });
}

for (const vector of VECTORS.latent_weights) {
  test(`latent weights of [${vector.start_frame}, ${vector.end_frame}) in ${vector.latent_frames}`, () => {
    const weights = latentWeights(vector.start_frame, vector.end_frame, vector.latent_frames);
    close(weights, vector.weights);
    assert.deepEqual(binary(weights), vector.binary);
  });
}

for (const vector of VECTORS.line_weights) {
  test(`line weights: ${vector.name}`, () => {
    const video = { frames: pixelFrames(vector.latent_frames), fps: vector.fps };
    readTimeline(vector.text).entries.forEach(({ shown }, index) => {
      close(lineWeights(shown, video), vector.weights[index]);
      assert.deepEqual(lineMask(shown, video), vector.binary[index]);
    });
  });
}

test("a long line is read in linear time", { timeout: 5000 }, () => {
  readTimeline(`always ${" ".repeat(200_000)}a${" x".repeat(100_000)}`);
  readTimeline(" ".repeat(200_000));
  readTimeline("a\n".repeat(2000));
});
