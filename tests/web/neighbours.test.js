/** What the graph around a node tells of the video. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { isLinked, promptsBefore, videoAround } from "../../web/timeline/neighbours.js";

/** A graph as the editor keeps it. `wires`: [from node, output, to node, input]; -10 and -20 are a subgraph's own ends. */
function graphOf(nodes, wires) {
  const links = wires.map(([origin_id, origin_slot, target_id, target_slot], id) => ({ id, origin_id, origin_slot, target_id, target_slot, type: "" }));
  const graph = { nodes, getNodeById: (id) => nodes.find((node) => node.id === id) ?? null, getLink: (id) => links[id] ?? null };
  for (const node of nodes) {
    node.graph = graph;
    node.outputs?.forEach((output, slot) => {
      output.links = links.filter((link) => link.origin_id === node.id && link.origin_slot === slot).map(({ id }) => id);
    });
    node.inputs?.forEach((input, slot) => {
      input.link = links.find((link) => link.target_id === node.id && link.target_slot === slot)?.id ?? null;
    });
  }
  return graph;
}

const mask = (id, fps = 0) => ({
  id,
  type: "WanConductorTemporalMask",
  inputs: [{ name: "model", type: "MODEL" }],
  outputs: [{ type: "MODEL" }],
  widgets: [{ name: "timeline", value: "" }, { name: "fps", value: fps }],
});
const patch = (id) => ({ id, type: "Patch", inputs: [{ name: "model", type: "MODEL" }], outputs: [{ type: "MODEL" }] });
const sampler = (id) => ({
  id,
  type: "KSampler",
  inputs: [{ name: "model", type: "MODEL" }, { name: "latent_image", type: "LATENT" }],
  outputs: [{ type: "LATENT" }],
});
const empty = (id, length, type = "EmptyHunyuanLatentVideo") => ({
  id,
  type,
  title: `latent ${id}`,
  inputs: [{ name: "length", type: "INT", widget: { name: "length" } }],
  outputs: [{ type: "LATENT" }],
  widgets: [{ name: "width", value: 64 }, { name: "length", value: length }],
});

test("the length is that of the latent which the model is sampled with, not of another", () => {
  const nodes = [mask(1), patch(2), sampler(3), empty(4, 49), empty(5, 81)];
  graphOf(nodes, [[1, 0, 2, 0], [2, 0, 3, 0], [4, 0, 3, 1]]);
  assert.deepEqual(videoAround(nodes[0]), { fps: { value: 16, from: null }, frames: { value: 49, from: "latent 4" } });
});

test("a length is rounded down to 4n + 1, as the latent is", () => {
  const nodes = [mask(1), sampler(2), empty(3, 48)];
  graphOf(nodes, [[1, 0, 2, 0], [3, 0, 2, 1]]);
  assert.equal(videoAround(nodes[0]).frames.value, 45);
});

test("a linked length is that of the linked number", () => {
  const number = { id: 9, type: "PrimitiveInt", outputs: [{ type: "INT" }], widgets: [{ name: "value", value: 33 }] };
  const nodes = [mask(1), sampler(2), empty(3, 81), number];
  graphOf(nodes, [[1, 0, 2, 0], [3, 0, 2, 1], [9, 0, 3, 0]]);
  assert.equal(videoAround(nodes[0]).frames.value, 33);
});

test("a second sampler's latent leads through the first", () => {
  const nodes = [mask(1), sampler(2), sampler(3), empty(4, 21), empty(5, 81)];
  graphOf(nodes, [[1, 0, 3, 0], [2, 0, 3, 1], [4, 0, 2, 1]]);
  assert.equal(videoAround(nodes[0]).frames.value, 21);
});

test("without a way there, the one length that all agree on counts, and two that differ do not", () => {
  const alone = [mask(1), empty(2, 33), empty(3, 33)];
  graphOf(alone, []);
  assert.equal(videoAround(alone[0]).frames.value, 33);
  const differing = [mask(1), empty(2, 33), empty(3, 49)];
  graphOf(differing, []);
  assert.equal(videoAround(differing[0]).frames, null);
});

test("a circle of links ends", () => {
  const nodes = [mask(1), patch(2), sampler(3), sampler(4)];
  graphOf(nodes, [[1, 0, 2, 0], [2, 0, 3, 0], [4, 0, 3, 1], [3, 0, 4, 1], [2, 0, 2, 0]]);
  assert.equal(videoAround(nodes[0]).frames, null);
});

test("out of a subgraph", () => {
  const inner = [mask(1)];
  const inside = graphOf(inner, [[-10, 0, 1, 0], [1, 0, -20, 0]]);
  const host = { id: 7, type: "sub", subgraph: inside, inputs: [{ name: "model", type: "MODEL" }], outputs: [{ type: "MODEL" }] };
  const root = graphOf([host, sampler(2), empty(3, 49), empty(4, 81)], [[7, 0, 2, 0], [3, 0, 2, 1]]);
  root.subgraphs = new Map([["s", inside]]);
  inside.rootGraph = root;
  assert.deepEqual(videoAround(inner[0]).frames, { value: 49, from: "latent 3" });
});

test("a latent that comes into the subgraph from outside", () => {
  const inner = [mask(1), sampler(2)];
  const inside = graphOf(inner, [[1, 0, 2, 0], [-10, 0, 2, 1]]);
  const host = { id: 7, type: "sub", subgraph: inside, inputs: [{ name: "latent", type: "LATENT" }], outputs: [] };
  const root = graphOf([host, empty(3, 49), empty(4, 81)], [[3, 0, 7, 0]]);
  root.subgraphs = new Map([["s", inside]]);
  inside.rootGraph = root;
  assert.equal(videoAround(inner[0]).frames.value, 49);
});

test("fps is the node's own, else 24 with the latent of the 5B", () => {
  const nodes = [mask(1), sampler(2), empty(3, 121, "Wan22ImageToVideoLatent")];
  graphOf(nodes, [[1, 0, 2, 0], [3, 0, 2, 1]]);
  assert.deepEqual(videoAround(nodes[0]).fps, { value: 24, from: "latent 3" });
  nodes[0].widgets[1].value = 30;
  assert.deepEqual(videoAround(nodes[0]).fps, { value: 30, from: "this node" });
});

test("a node that is in no graph yet", () => {
  assert.deepEqual(videoAround({ ...mask(1), graph: null }), { fps: { value: 16, from: null }, frames: null });
});

test("a text is linked when its own input is", () => {
  const node = { inputs: [{ name: "timeline", type: "STRING", widget: { name: "timeline" }, link: null }, { name: "model", type: "MODEL", link: 3 }] };
  assert.equal(isLinked(node, "timeline"), false);
  node.inputs[0].link = 0;
  assert.equal(isLinked(node, "timeline"), true);
});

const asking = (id) => ({ id, type: "WanConductorEventSchedule", inputs: [{ name: "conditioning", type: "CONDITIONING" }], outputs: [] });
const encoder = (id, text, type = "WanConductorTextEncode") => ({
  id,
  type,
  inputs: [{ name: "clip", type: "CLIP" }, { name: "text", type: "STRING", widget: { name: "text" } }],
  outputs: [{ type: "CONDITIONING" }],
  widgets: [{ name: "text", value: text }],
});
const joined = (id, ...names) => ({
  id,
  type: "Joined",
  inputs: names.map((name) => ({ name, type: "CONDITIONING" })),
  outputs: [{ type: "CONDITIONING" }],
});

test("the prompts are those of the encoders behind the conditioning", () => {
  const nodes = [asking(1), joined(2, "conditioning_1", "conditioning_2"), encoder(3, "a cat"), encoder(4, "a dog")];
  graphOf(nodes, [[2, 0, 1, 0], [3, 0, 2, 0], [4, 0, 2, 1]]);
  assert.deepEqual(promptsBefore(nodes[0]), ["a cat", "a dog"]);
});

test("of a node that takes both, the positive prompt is meant", () => {
  const nodes = [asking(1), joined(2, "positive", "negative"), encoder(3, "a cat"), encoder(4, "ugly", "CLIPTextEncode")];
  graphOf(nodes, [[2, 0, 1, 0], [3, 0, 2, 0], [4, 0, 2, 1]]);
  assert.deepEqual(promptsBefore(nodes[0]), ["a cat"]);
});

test("a prompt that comes in through a socket is read where it is written", () => {
  const text = { id: 4, type: "PrimitiveStringMultiline", outputs: [{ type: "STRING" }], widgets: [{ name: "value", value: "a fox" }] };
  const nodes = [asking(1), encoder(3, "old"), text];
  graphOf(nodes, [[3, 0, 1, 0], [4, 0, 3, 1]]);
  assert.deepEqual(promptsBefore(nodes[0]), ["a fox"]);
});

test("prompts are not known where nothing is connected, one is missing, or another encoder stands", () => {
  const alone = [asking(1)];
  graphOf(alone, []);
  assert.equal(promptsBefore(alone[0]), null);
  const stock = [asking(1), joined(2, "conditioning_1", "conditioning_2"), encoder(3, "a cat"), encoder(4, "a dog", "CLIPTextEncode")];
  graphOf(stock, [[2, 0, 1, 0], [3, 0, 2, 0], [4, 0, 2, 1]]);
  assert.equal(promptsBefore(stock[0]), null);
  const computed = [asking(1), encoder(3, "old"), { id: 4, type: "Writes", outputs: [{ type: "STRING" }], widgets: [{ name: "value", value: "a" }] }];
  graphOf(computed, [[3, 0, 1, 0], [4, 0, 3, 1]]);
  assert.equal(promptsBefore(computed[0]), null);
});
