/** Edits of the text: what they write, and that they leave everything else as typed. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  withNewSpan,
  withoutSpan,
  withSpan,
  withSplit,
  withStrength,
  withSubject,
  withSubjectNamed,
  withWords,
} from "../../web/timeline/edit.js";
import { drawn, edges, framesOf, latentFrames, moved, resized, snapped } from "../../web/timeline/latent_time.js";
import { readTimeline } from "../../web/timeline/model.js";

const VECTORS = JSON.parse(readFileSync(new URL("../vectors/timeline.json", import.meta.url), "utf8"));
const VIDEO = { frames: 49, fps: 16 };
const AT_24 = { frames: 121, fps: 24 };
const PLAIN = { bullets: true, lists: true };
const TEXT = [
  "# a scene  \r\n",
  "cat:                 # always there\r\n",
  "\t0s - 2s    watches   a bowl\r\n",
  "  2s–end   jumps x1.5   # high!\r\n",
  "\r\n",
  "ｄｏｇ：\r\n",
  "  [00:00-00:01] sleeps\r\n",
  "  always,  snores",
].join("");

/** Lines of `after` that are not lines of `before`, and the other way round. */
function difference(before, after) {
  const typed = (text) => text.match(/[^\r\n]*(?:\r\n|\r|\n|$)/g);
  const without = (these, those) => these.filter((line) => !those.includes(line));
  return { gone: without(typed(before), typed(after)), come: without(typed(after), typed(before)) };
}

function spansOf(text, video) {
  return readTimeline(text, PLAIN).entries.map(({ shown }) => shown.map((span) => framesOf(span, video)));
}

test("a moved span changes its own line, and in it only its times", () => {
  const { text } = withSpan(TEXT, PLAIN, { entry: 0, span: 0 }, [1, 33], VIDEO);
  assert.deepEqual(difference(TEXT, text), {
    gone: ["\t0s - 2s    watches   a bowl\r\n"],
    come: ["\t0.0625s - 2.0625s  watches   a bowl\r\n"],
  });
});

test("an end that stays keeps its spelling, and so do dash, strength and comment", () => {
  const { text } = withSpan(TEXT, PLAIN, { entry: 1, span: 0 }, [25, 49], VIDEO);
  assert.deepEqual(difference(TEXT, text), {
    gone: ["  2s–end   jumps x1.5   # high!\r\n"],
    come: ["  1.5625s–end  jumps x1.5   # high!\r\n"],
  });
});

test("an end that stays keeps its digits and capitals", () => {
  assert.equal(withSpan("0.50 S – 2s cat", PLAIN, { entry: 0, span: 0 }, [8, 33], VIDEO).text, "0.50 S – 2.0625s cat");
  assert.equal(withSpan("0.5s - END cat", PLAIN, { entry: 0, span: 0 }, [9, 49], VIDEO).text, "0.5625s - END cat");
});

test("the words keep their column while the spaces before them allow it", () => {
  const text = "  0s - 2s        watches\n  2s - end       jumps";
  assert.equal(withSpan(text, PLAIN, { entry: 0, span: 0 }, [0, 24], VIDEO).text, "  0s - 1.5s      watches\n  2s - end       jumps");
});

test("the units of a line are kept", () => {
  const write = (text, frames) => withSpan(text, PLAIN, { entry: 0, span: 0 }, frames, VIDEO).text;
  assert.equal(write("0f - 8f cat", [5, 9]), "5f - 9f cat");
  assert.equal(write("0% - 50% cat", [0, 24.5]), "0% - 50% cat");
  assert.equal(write("25% - 50% cat", [9, 24.5]), "18.3673% - 50% cat");
  assert.equal(write("8f - 2s cat", [9, 33]), "9f - 2.0625s cat");
  assert.equal(write("1-2s cat", [17, 32]), "1.0625s - 2s cat");
  assert.equal(write("[00:00-00:01] cat", [0, 17]), "0s - 1.0625s cat");
  assert.equal(write("always cat", [9, 49]), "0.5625s - end cat");
  assert.equal(write("[0s - 1s] cat", [0, 17]), "[0s - 1.0625s] cat");
  assert.equal(write("0s - 1s: cat", [9, 16]), "0.5625s - 1s: cat");
});

test("what is not moved is not rewritten", () => {
  assert.equal(withSpan(TEXT, PLAIN, { entry: 3, span: 0 }, [0, 49], VIDEO).text, TEXT);
});

test("a span moved to any latent reads back there, to a hundredth of a frame", () => {
  for (const video of [VIDEO, AT_24, { frames: 77, fps: 30 }, { frames: 81, fps: 12.5 }]) {
    for (const written of ["0s - 1f x", "0% - 3% x", "0f - 1f x", "0s - 0.1s, 0s - 1s x", "always x"]) {
      for (const edge of edges(latentFrames(video.frames)).slice(1, -1)) {
        const { text } = withSpan(written, PLAIN, { entry: 0, span: 0 }, [edge, video.frames], video);
        const [[start, end]] = spansOf(text, video)[0];
        assert.ok(Math.abs(start - edge) < 0.01 && end === video.frames, `${written} at ${edge}: ${text}`);
      }
    }
  }
});

test("splitting gives two lines with the same words, and the comment stays with the first", () => {
  const { text, chosen } = withSplit(TEXT, PLAIN, { entry: 1, span: 0 }, 41, VIDEO);
  assert.deepEqual(difference(TEXT, text), {
    gone: ["  2s–end   jumps x1.5   # high!\r\n"],
    come: ["  2s–2.5625s  jumps x1.5   # high!\r\n", "  2.5625s - end  jumps x1.5\r\n"],
  });
  assert.deepEqual(chosen, { entry: 2, span: 0 });
  assert.deepEqual(spansOf(text, VIDEO).slice(1, 3), [[[32, 41]], [[41, 49]]]);
});

test("splitting one of several spans of a line leaves the others", () => {
  const { text } = withSplit("0s - 1s, 2s - 3s cat", PLAIN, { entry: 0, span: 1 }, 41, VIDEO);
  assert.deepEqual(spansOf(text, VIDEO), [[[0, 16], [32, 41]], [[41, 48]]]);
});

test("splitting the last line of a text without a newline at its end", () => {
  const { text } = withSplit("always cat", PLAIN, { entry: 0, span: 0 }, 25, VIDEO);
  assert.equal(text, "0s - 1.5625s cat\n1.5625s - end  cat");
});

test("a place outside the span does not split it", () => {
  for (const frame of [0, 32, 49]) assert.equal(withSplit(TEXT, PLAIN, { entry: 0, span: 0 }, frame, VIDEO).text, TEXT);
});

test("deleting takes the line, or the one span of several", () => {
  assert.deepEqual(difference(TEXT, withoutSpan(TEXT, PLAIN, { entry: 2, span: 0 }).text), { gone: ["  [00:00-00:01] sleeps\r\n"], come: [] });
  const several = "0s - 1s, 1s - 2s ,2s - 3s  cat";
  assert.equal(withoutSpan(several, PLAIN, { entry: 0, span: 0 }).text, "1s - 2s ,2s - 3s  cat");
  assert.equal(withoutSpan(several, PLAIN, { entry: 0, span: 1 }).text, "0s - 1s, 2s - 3s  cat");
  assert.equal(withoutSpan(several, PLAIN, { entry: 0, span: 2 }).text, "0s - 1s, 1s - 2s  cat");
  assert.deepEqual(withoutSpan("always cat", PLAIN, { entry: 0, span: 0 }), { text: "", chosen: null });
});

test("a new span becomes a line behind the last one of its subject", () => {
  const { text, chosen } = withNewSpan(TEXT, PLAIN, "cat", [33, 49], "lands", VIDEO);
  assert.deepEqual(difference(TEXT, text), { gone: [], come: ["  2.0625s - end  lands\r\n"] });
  assert.deepEqual(readTimeline(text).entries.map(({ body }) => body), ["watches   a bowl", "jumps", "lands", "sleeps", "snores"]);
  assert.equal(readTimeline(text).entries[chosen.entry].body, "lands");
  assert.equal(readTimeline(text).entries[chosen.entry].subject, "cat");
});

test("a new span at the end of a text without a newline, in an empty text, and above all headers", () => {
  assert.equal(withNewSpan(TEXT, PLAIN, "ｄｏｇ", [0, 17], "barks", VIDEO).text, `${TEXT}\r\n  0s - 1.0625s  barks`);
  assert.equal(withNewSpan("", PLAIN, null, [0, 17], "cat", VIDEO).text, "0s - 1.0625s  cat\n");
  assert.equal(withNewSpan("cat:\n  always sits", PLAIN, null, [0, 49], "rain", VIDEO).text, "0s - end  rain\ncat:\n  always sits");
});

test("words are replaced with their strength, the comment stays", () => {
  assert.equal(withWords("  2s - end   jumps x1.5   # high!", PLAIN, { entry: 0, span: 0 }, " leaps x2 ").text, "  2s - end   leaps x2   # high!");
  assert.equal(withWords("always cat", PLAIN, { entry: 0, span: 0 }, "  ").text, "always cat");
  assert.equal(withWords("always cat", PLAIN, { entry: 0, span: 0 }, "a\nb").text, "always a b");
});

test("a strength is written, replaced, and left out at 1 where it may be", () => {
  const strengthen = (text, to) => withStrength(text, PLAIN, { entry: 0, span: 0 }, to).text;
  assert.equal(strengthen("always cat # why", 1.25), "always cat  x1.25 # why");
  assert.equal(strengthen("always cat   x1.25 # why", 1.5), "always cat   x1.5 # why");
  assert.equal(strengthen("always cat x2", 1), "always cat");
  assert.equal(strengthen("always cat x2 x3", 1), "always cat x2 x1");
  assert.equal(strengthen("always cat", -1), "always cat  x0");
});

test("a subject is renamed in all its headers and nowhere else", () => {
  const text = "cat: # one\n  always cat\ndog:\n  always b\ncat:\n  always c";
  assert.equal(withSubjectNamed(text, PLAIN, "cat", "a fox:").text, "a fox: # one\n  always cat\ndog:\n  always b\na fox:\n  always c");
  assert.equal(withSubjectNamed("# top\nalways a", PLAIN, null, "cat").text, "# top\ncat:\nalways a");
  assert.equal(withSubject("always a\n\n", PLAIN, "dog").text, "always a\ndog:\n\n");
  assert.equal(withSubject("", PLAIN, "dog").text, "dog:\n");
});

test("equal shares are written out when one of them is moved, and mean the same", () => {
  const text = "cat: # it\n  sits\n  runs # fast\ndog:\n  barks";
  const { text: after } = withSpan(text, PLAIN, { entry: 0, span: 0 }, [0, 25], VIDEO);
  assert.equal(after, "cat: # it\n  0s - 1.5625s  sits\n  50% - end  runs # fast\ndog:\n  always     barks".replace("0s - 1.5625s  sits", "0% - 51.0204%  sits"));
});

test("a list becomes lines when one of its parts is touched", () => {
  const text = "a cat | a dog |a fox x2 # three\n";
  assert.equal(withWords(text, PLAIN, { entry: 1, span: 0 }, "a wolf").text, "a cat\na wolf\na fox x2 # three\n");
  assert.equal(withoutSpan(text, PLAIN, { entry: 0, span: 0 }).text, "a dog\na fox x2 # three\n");
});

test("bullets stay where other words of the line are edited", () => {
  assert.equal(withWords("- 0s - 2s sits\n- 2s - 3s runs", PLAIN, { entry: 0, span: 0 }, "lies").text, "- 0s - 2s lies\n- 2s - 3s runs");
});

for (const vector of VECTORS.parse.filter(({ lines }) => lines.length)) {
  test(`every edit of any text changes only what it says: ${vector.name}`, () => {
    const before = readTimeline(vector.text).entries;
    before.forEach((entry, index) => {
      const chosen = { entry: index, span: 0 };
      /** `same` with `count` of its lines from `at` replaced. */
      const but = (at, count, ...lines) => [...same.slice(0, at), ...lines, ...same.slice(at + count)];
      const others = (text) => readTimeline(text).entries.map(({ subject, body, strength }) => [subject, body, strength]);
      const same = others(vector.text);
      assert.deepEqual(others(withSpan(vector.text, {}, chosen, [5, 9], VIDEO).text), same);
      assert.deepEqual(others(withoutSpan(vector.text, {}, chosen).text), entry.spans.length > 1 ? same : but(index, 1));
      assert.deepEqual(others(withStrength(vector.text, {}, chosen, 0.5).text), but(index, 1, [entry.subject, entry.body, 0.5]));
      const split = withSplit(withSpan(vector.text, {}, chosen, [5, 13], VIDEO).text, {}, chosen, 9, VIDEO).text;
      assert.deepEqual(others(split), but(index, 0, same[index]));
    });
  });
}

test("dragging moves from edge to edge of latents, keeps the length, and stays in the video", () => {
  assert.deepEqual(moved([0, 24], 1, VIDEO), [1, 25]);
  assert.deepEqual(moved([1, 25], -1, VIDEO), [0, 25]);
  assert.deepEqual(moved([1, 9], 1, VIDEO), [5, 13]);
  assert.deepEqual(moved([5, 13], -7, VIDEO), [0, 9]);
  assert.deepEqual(moved([1, 9], 99, VIDEO), [41, 49]);
  assert.deepEqual(moved([0, 49], 3, VIDEO), [0, 49]);
  assert.deepEqual(moved([32, 48], 0, VIDEO), [33, 49]);
  assert.deepEqual(moved([10, 11], 0, VIDEO), [9, 13]);
});

test("ends snap to 4n + 1, or to frames, and never cross", () => {
  assert.deepEqual(resized([0, 16], 1, 20.9, VIDEO, false), [0, 21]);
  assert.deepEqual(resized([0, 16], 1, 20.2, VIDEO, true), [0, 20]);
  assert.deepEqual(resized([9, 17], 1, 2, VIDEO, false), [9, 13]);
  assert.deepEqual(resized([9, 17], 0, 48, VIDEO, false), [13, 17]);
  assert.deepEqual(resized([9, 17], 0, 48, VIDEO, true), [16, 17]);
  assert.deepEqual(resized([9, 17], 0, -5, VIDEO, false), [0, 17]);
  assert.deepEqual(resized([9, 17], 1, 500, VIDEO, false), [9, 49]);
});

test("what is drawn has at least one latent", () => {
  assert.deepEqual(drawn(20, 20, VIDEO), [21, 25]);
  assert.deepEqual(drawn(30, 8, VIDEO), [9, 29]);
  assert.deepEqual(drawn(49, 49, VIDEO), [45, 49]);
  assert.deepEqual(drawn(0.2, 0.3, VIDEO), [0, 1]);
});

test("the snapped place is the nearest edge of a latent", () => {
  const all = edges(13);
  for (let frame = 0; frame <= 49; frame += 0.25) {
    const nearest = Math.min(...all.map((edge) => Math.abs(edge - frame)));
    assert.ok(all.includes(snapped(frame, VIDEO)));
    assert.equal(Math.abs(snapped(frame, VIDEO) - frame), nearest, `at ${frame}`);
  }
});
