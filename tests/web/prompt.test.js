/** Which words of a timeline the prompt lacks. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { readTimeline } from "../../web/timeline/model.js";
import { has, missing } from "../../web/timeline/prompt.js";

const VECTORS = JSON.parse(readFileSync(new URL("../vectors/phrases.json", import.meta.url), "utf8"));

for (const { prompt, phrase, found } of VECTORS) {
  test(`"${phrase}" is ${found ? "" : "not "}in "${prompt}"`, () => assert.equal(has(prompt, phrase), found));
}

test("the brackets of weights are not part of the words", () => {
  assert.ok(has("a (red cat:1.2), jumps", "red cat, jumps"));
  assert.ok(has("a ((red) cat)", "red cat"));
  assert.ok(has("a \\(red\\) cat", "(red) cat"));
  assert.ok(!has("a (red cat:1.2)", "cat:1.2"));
});

const told = (text, prompts, relations = false) => missing(readTimeline(text), prompts, relations).map(({ line, column, message }) => [line, column, message]);

test("what no prompt has is told at its words", () => {
  const text = "cat:\n  0s - 1s   jumps x2\n  1s - end  flies\ndog:\n  always  sits";
  assert.deepEqual(told(text, ["a cat jumps"]), [
    [3, 1, "“dog” is not in the prompt"],
    [2, 13, "“flies” is not in the prompt"],
    [4, 11, "“sits” is not in the prompt"],
  ]);
  assert.deepEqual(told(text, ["a cat jumps", "a dog sits and flies"]), []);
});

test("what is turned off is not asked for", () => {
  assert.deepEqual(told("dog:\n  0s - 1s  sits x0", ["a cat"]), []);
});

test("of a relation the things are looked up", () => {
  assert.deepEqual(told("always  cat | left of | dog", ["a cat and a dog"], true), []);
  assert.deepEqual(told("cat:\n  always  left of | dog\n  always  between | dog | fox", ["a cat and a dog"], true), [[2, 11, "“fox” is not in the prompt"]]);
});

test("of a prompt that is made when it is queued nothing is said", () => {
  assert.deepEqual(told("always  dog", ["a {cat|dog}"]), []);
});
