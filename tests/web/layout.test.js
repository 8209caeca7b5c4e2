/** Where blocks, lanes, problems and ruler stand. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { HEIGHT, blockAcross, blockBeside, shownTextHeight, ticks, tracksOf, viewHeight } from "../../web/timeline/layout.js";
import { framesNeeded, readTimeline, subjects } from "../../web/timeline/model.js";

const VIDEO = { frames: 49, fps: 16 };
const tracks = (text, sure = true) => tracksOf(readTimeline(text), VIDEO, sure);
const lanes = (text) => tracks(text)[0].blocks.map(({ lane }) => lane);

test("a subject has one track, wherever its lines are", () => {
  const text = "rain\ncat:\nsits\ndog:\ncat:\nruns";
  assert.deepEqual(subjects(readTimeline(text)), [null, "cat", "dog"]);
  assert.deepEqual(tracks(text).map(({ blocks }) => blocks.map(({ label }) => label)), [["rain"], ["sits", "runs"], []]);
});

test("no two blocks of a lane overlap, and blocks that only touch share one", () => {
  assert.deepEqual(lanes("0s - 1s a\n1s - 2s b\n2s - end c"), [0, 0, 0]);
  assert.deepEqual(lanes("0s - 2s a\n1s - 3s b\n2s - end c"), [0, 1, 0]);
  assert.deepEqual(lanes("always a\nalways b\nalways c"), [0, 1, 2]);
  assert.deepEqual(lanes("1s - 2s late\n0s - 1s early"), [0, 0]);
});

test("blocks are cut to the video, and say so once its length is known", () => {
  const [{ blocks, problems }] = tracks("2s - 9s a\n8s - 9s b");
  assert.deepEqual(blocks.map(({ start, end }) => [start, end]), [[32, 49], [49, 49]]);
  assert.equal(problems.length, 2);
  assert.equal(blocks[0].problem, problems[0]);
  assert.equal(tracks("2s - 9s a", false)[0].problems.length, 0);
});

test("a wrong line stands in the track of its subject and hides no other line", () => {
  const [cat, dog] = tracks("cat:\n  0s - 1s a\n  1s - 2x b\ndog:\n  always c");
  assert.deepEqual([cat.blocks.length, cat.problems.map(({ line }) => line)], [1, [2]]);
  assert.deepEqual([dog.blocks.length, dog.problems], [1, []]);
});

test("an empty text has one track to draw in", () => {
  assert.deepEqual(tracks(""), [{ subject: null, lanes: 1, blocks: [], problems: [] }]);
});

test("the height grows with lanes and problems up to a limit", () => {
  assert.equal(viewHeight(tracks("0s - 2s a\n1s - 3s b")) - viewHeight(tracks("0s - 2s a")), HEIGHT.lane);
  assert.equal(viewHeight(tracks("0s - 2s a\n1s - 3x b")) - viewHeight(tracks("0s - 2s a")), HEIGHT.problem);
  assert.equal(viewHeight(tracks("always a\n".repeat(100))), HEIGHT.most);
});

test("the ruler's labels have room, and lie at their seconds", () => {
  for (const video of [VIDEO, { frames: 121, fps: 24 }, { frames: 1, fps: 16 }, { frames: 1601, fps: 16 }]) {
    for (const width of [120, 300, 900, 9000]) {
      const all = ticks(video, width);
      assert.equal(all[0].frame, 0);
      all.slice(1).forEach(({ frame }, index) => assert.ok(((frame - all[index].frame) / video.frames) * width > 40));
      for (const { frame, label } of all) assert.ok(label === "" || label === `${Number((frame / video.fps).toFixed(3))}s`);
    }
  }
});

test("the keyboard goes by subject and time, and across to what is nearest in time", () => {
  const all = tracks("cat:\n  2s - 3s late\n  0s - 1s early\ndog:\n  0s - 1s a\n  2s - 3s b");
  const walked = [];
  for (let at = blockBeside(all, null, 1); at; at = blockBeside(all, at, 1)) walked.push(at.label);
  assert.deepEqual(walked, ["early", "late", "a", "b"]);
  assert.equal(blockBeside(all, null, -1).label, "b");
  assert.equal(blockAcross(all, { entry: 0, span: 0 }, 1).label, "b");
  assert.equal(blockAcross(all, { entry: 0, span: 0 }, -1), null);
});

test("an unknown length is at least what the text names", () => {
  assert.equal(framesNeeded(readTimeline("0s - 10s a\n100f - end b\n0% - 50% c"), 16), 160);
  assert.equal(framesNeeded(readTimeline("always a"), 16), 0);
});

test("a shown text gets a row per line, more where a line is longer than the node is wide", () => {
  assert.equal(shownTextHeight("a\nb\nc", 400) - shownTextHeight("a", 400), 32);
  assert.ok(shownTextHeight("a".repeat(100), 400) > shownTextHeight("a", 400));
  assert.ok(shownTextHeight("a\n".repeat(100), 400) <= 200);
});
