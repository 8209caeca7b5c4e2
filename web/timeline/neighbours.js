/** How long the video is and how fast, as far as the graph around a node tells. */

import { latentFrames, pixelFrames } from "./latent_time.js";

/**
 * What is used here of the editor's graph.
 * @typedef {{ id: number | string, type: string, target_id: number | string, origin_id: number | string,
 *   target_slot: number, origin_slot: number }} Link
 * @typedef {{ name: string, value: any, type?: string, callback?: (...given: any[]) => void, options?: any, element?: HTMLElement,
 *   serializeValue?: () => any }} Widget
 * @typedef {{ name: string, type: string, link: Link["id"] | null, widget?: { name: string } }} Input
 * @typedef {{ type: string, links: Link["id"][] | null }} Output
 * @typedef {{ id: number | string, type: string, title?: string, mode?: number, inputs?: Input[], outputs?: Output[], widgets?: Widget[],
 *   graph: Graph | null, subgraph?: Graph }} Node
 * @typedef {{ nodes: Node[], getNodeById(id: Node["id"] | null | undefined): Node | null | undefined,
 *   getLink(id: Link["id"]): Link | null | undefined, rootGraph?: Graph, subgraphs?: Map<string, Graph> }} Graph
 */
/** A number and the title of the node that gives it; without a title it is assumed. @typedef {{ value: number, from: string | null }} Found */

const CARRIES_THE_MODEL = ["MODEL", "GUIDER"];
const LENGTHS = ["length", "num_frames"];
const ENCODER = "WanConductorTextEncode";
const SAYS_ITS_TEXT = ["PrimitiveString", "PrimitiveStringMultiline"]; // what other nodes hand on may be made of it
const OF_THE_5B = "Wan22ImageToVideoLatent"; // the one latent that only the 24 fps model takes
export const USUAL_FRAMES = 81;

/** The first place along the node's MODEL where a latent's length is set. @param {Node} node @returns {{ frames: number, node: Node } | null} */
function lengthAlongTheModel(node) {
  const reached = [node];
  const seen = new Set(reached);
  for (const patched of reached) {
    for (const latent of patched === node ? [] : inputsOf(patched, ["LATENT"])) {
      const found = lengthBehind(latent, seen);
      if (found) return found;
    }
    for (const next of targetsOf(patched)) {
      if (!seen.has(next)) reached.push(next);
      seen.add(next);
    }
  }
  return null;
}

/** @param {Node} latent @param {Set<Node>} seen @returns {{ frames: number, node: Node } | null} */
function lengthBehind(latent, seen) {
  const frames = lengthOn(latent);
  if (frames) return { frames, node: latent };
  if (seen.has(latent)) return null;
  seen.add(latent);
  for (const before of inputsOf(latent, ["LATENT"])) {
    const found = lengthBehind(before, seen);
    if (found) return found;
  }
  return null;
}

/** The value of a node's length widget, or of what is linked to it. @param {Node} node */
function lengthOn(node) {
  const widget = node.widgets?.find(({ name }) => LENGTHS.includes(name));
  if (!widget) return null;
  const input = node.inputs?.find((slot) => slot.widget?.name === widget.name);
  const given = input && originOf(node, input);
  const value = given ? given.widgets?.[0]?.value : widget.value;
  return Number.isFinite(value) && value >= 1 ? pixelFrames(latentFrames(value)) : null;
}

/** The node that an input is linked to, out of a subgraph too. @param {Node} node @param {Input} input @returns {Node | null} */
export function originOf(node, input) {
  const link = input.link == null ? null : node.graph?.getLink(input.link);
  if (!link || !node.graph) return null;
  const origin = node.graph.getNodeById(link.origin_id);
  if (origin) return origin;
  const host = hostOf(node.graph);
  const outer = host?.inputs?.[link.origin_slot];
  return host && outer ? originOf(host, outer) : null;
}

/** @param {Node} node @param {string[]} types @returns {Node[]} */
function inputsOf(node, types) {
  const slots = (node.inputs ?? []).filter((input) => types.includes(input.type));
  return slots.map((input) => originOf(node, input)).filter((origin) => origin !== null);
}

/** Where the outputs that carry the model lead, out of a subgraph too. @param {Node} node @param {Output[]} [outputs] @returns {Node[]} */
function targetsOf(node, outputs = node.outputs ?? []) {
  const carrying = outputs.filter((output) => CARRIES_THE_MODEL.includes(output.type));
  return carrying.flatMap((output) =>
    (output.links ?? []).flatMap((id) => {
      const link = node.graph?.getLink(id);
      if (!link || !node.graph) return [];
      const target = node.graph.getNodeById(link.target_id);
      if (target) return [target];
      const host = hostOf(node.graph);
      return host?.outputs?.[link.target_slot] ? targetsOf(host, [host.outputs[link.target_slot]]) : [];
    }),
  );
}

/** @param {Graph} graph @returns {Graph[]} */
function graphsAround(graph) {
  const root = graph.rootGraph ?? graph;
  return [root, ...(root.subgraphs?.values() ?? [])];
}

/** The node that stands for a subgraph. @param {Graph} graph */
function hostOf(graph) {
  const nodes = graphsAround(graph).flatMap((around) => around.nodes);
  return nodes.find((node) => node.subgraph === graph);
}

/** The length that every latent of the whole graph has, if they agree. @param {Node} node @returns {{ frames: number, node: Node } | null} */
function onlyLength(node) {
  if (!node.graph) return null;
  const found = graphsAround(node.graph).flatMap(({ nodes }) => nodes.map((other) => ({ frames: lengthOn(other), node: other })));
  const [first, ...others] = found.filter(({ frames }) => frames);
  if (!first?.frames || others.some(({ frames }) => frames !== first.frames)) return null;
  return { frames: first.frames, node: first.node };
}

/** Frames per second and pixel frames of the video that a node takes part in. @param {Node} node @returns {{ fps: Found, frames: Found | null }} */
export function videoAround(node) {
  const length = lengthAlongTheModel(node) ?? onlyLength(node);
  const own = node.widgets?.find(({ name }) => name === "fps")?.value;
  const name = length ? length.node.title || length.node.type : null;
  const frames = length && { value: length.frames, from: name };
  if (own > 0) return { fps: { value: own, from: "this node" }, frames };
  return { fps: length?.node.type === OF_THE_5B ? { value: 24, from: name } : { value: 16, from: null }, frames };
}

/** The prompts that a node's conditioning was encoded from; null where the graph does not tell them. @param {Node} node @returns {string[] | null} */
export function promptsBefore(node, seen = new Set([node])) {
  const slots = (node.inputs ?? []).filter(({ type }) => type === "CONDITIONING");
  const positive = slots.filter(({ name }) => name === "positive");
  const prompts = [];
  for (const slot of positive.length ? positive : slots) {
    const origin = originOf(node, slot);
    if (!origin || seen.has(origin)) return null;
    const told = origin.type === ENCODER ? textOf(origin) : promptsBefore(origin, new Set([...seen, origin]));
    if (!told) return null;
    prompts.push(...told);
  }
  return prompts.length ? prompts : null;
}

/** @param {Node} encoder @returns {string[] | null} */
function textOf(encoder) {
  const slot = encoder.inputs?.find(({ widget }) => widget?.name === "text");
  const given = slot?.link == null ? null : originOf(encoder, slot);
  if (slot?.link != null && !SAYS_ITS_TEXT.includes(given?.type ?? "")) return null;
  const text = (given ?? encoder).widgets?.find(({ name }) => name === (given ? "value" : "text"))?.value;
  return typeof text === "string" && text.trim() ? [text] : null;
}

/** Whether the text widget is fed by a link. @param {Node} node @param {string} name */
export function isLinked(node, name) {
  return (node.inputs ?? []).some((input) => input.widget?.name === name && input.link != null);
}
