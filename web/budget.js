/** Puts a line on Guided KSampler and Guidance Budget that says, before queueing, what guidance costs at most. It is not saved. */

// @ts-expect-error the editor serves it; there is no such file here
import { app as editor } from "../../scripts/app.js";

import { BUDGET, costLine, SAMPLER } from "./budget/line.js";

/** @typedef {import("./timeline/neighbours.js").Node & { size: [number, number], setSize(size: [number, number]): void,
 *   computeSize(): [number, number], onRemoved?: (...given: any[]) => void,
 *   addDOMWidget(name: string, type: string, element: HTMLElement, options: object): { serialize?: boolean } }} EditorNode */

const MARGIN = 6; // what the classic canvas keeps free around the line
const HEIGHT = 3 * 15 + 2 * MARGIN; // three rows
const MEANS =
  "Of one node that edits the latent (Temporal Mask, Composition Guide), if no step ends early. Other guidance looks at no budget.";
const AGAIN = 500; // milliseconds

/** @type {Map<EditorNode, HTMLElement>} */
const lines = new Map();

/** @param {EditorNode} node */
function addLine(node) {
  const element = document.createElement("div");
  element.className = "wan-conductor-cost";
  element.title = MEANS;
  element.style.cssText = "overflow: hidden; color: var(--input-text, #ddd); font: 11px/15px Inter, system-ui, sans-serif; opacity: 0.8";
  element.addEventListener("wheel", (event) => {
    if (/** @type {any} */ (window).LiteGraph?.vueNodesMode) return; // there the editor sees the wheel by itself
    event.preventDefault();
    editor.canvas.processMouseWheel(event);
  });
  const height = () => HEIGHT;
  const widget = node.addDOMWidget("guidance_cost", "WAN_CONDUCTOR_COST", element, {
    getValue: () => "",
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
    margin: MARGIN,
    serialize: false, // not in the prompt
  });
  widget.serialize = false; // not in the workflow; and so it must stay behind every widget that is saved
  lines.set(node, element);
  const { onRemoved } = node;
  node.onRemoved = function (...given) {
    lines.delete(node);
    return onRemoved?.apply(this, given);
  };
}

function refreshAll() {
  for (const [node, element] of lines) {
    const line = costLine(node);
    if (element.textContent !== line) element.textContent = line;
  }
}

editor.registerExtension({
  name: "WanConductor.Budget",
  setup() {
    setInterval(refreshAll, AGAIN); // no event tells of every change: widgets come and go with the preset, and linked nodes count too
  },
  /** @param {EditorNode & { constructor: { comfyClass?: string } }} node */
  nodeCreated(node) {
    if (![SAMPLER, BUDGET].includes(node.constructor.comfyClass ?? node.type)) return;
    addLine(node);
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, node.size[0]), height]);
  },
});
