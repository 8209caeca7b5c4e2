/** Gives nodes with a timeline text a view of it, and room for the text that nodes show. The text widget stays the one truth. */

// @ts-expect-error the editor serves it; there is no such file here
import { app as editor } from "../../scripts/app.js";
// @ts-expect-error likewise
import { api as server } from "../../scripts/api.js";

import { shownTextHeight } from "./timeline/layout.js";
import { isLinked, promptsBefore, videoAround } from "./timeline/neighbours.js";
import { TimelineView } from "./timeline/view.js";

/** @typedef {import("./timeline/neighbours.js").Node} Node */
/** @typedef {import("./timeline/neighbours.js").Widget} Widget */
/**
 * What is used here of the editor.
 * @typedef {Node & { size: [number, number], setSize(size: [number, number]): void, computeSize(): [number, number],
 *   onRemoved?: (...given: any[]) => void, setDirtyCanvas(front: boolean, back: boolean): void,
 *   addDOMWidget(name: string, type: string, element: HTMLElement, options: object): Widget & { serialize?: boolean } }} EditorNode
 * @typedef {{ canvas: { emitBeforeChange(): void, emitAfterChange(): void, processMouseWheel(event: WheelEvent): void,
 *   processMouseDown(event: PointerEvent): void, processMouseMove(event: PointerEvent): void, processMouseUp(event: PointerEvent): void,
 *   graph: { getNodeById(id: string | number): EditorNode | null } | null },
 *   registerExtension(extension: object): void }} Editor
 */

/** @type {Editor} */
const app = editor;
/** @type {EventTarget} */
const api = server;

/** Nodes whose input `timeline` holds a timeline: which pasted forms each takes, and whether its lines are relations.
 * @type {Record<string, import("./timeline/model.js").Reading & { relations?: boolean }>} */
const NODES = {
  WanConductorTemporalMask: { bullets: true, lists: true },
  WanConductorEventSchedule: { bullets: true, lists: true },
  WanConductorCompositionGuide: { bullets: true, relations: true },
  WanConductorMultiPromptBlend: { bullets: true, lists: true },
};
const TEXT = "timeline";
const LENGTH = "length"; // of the picture on the node, if it draws one; 0: the video's
const LOOKED_UP = "conditioning"; // the input in which words of the text are found, if a node has it
const SHOWN_TEXT = "$$node-text-preview"; // the widget in which the editor shows what a node sends
const MARGIN = 20; // what the classic canvas keeps free around a DOM widget
const LEAST_TEXT = 110;
const WIDTH = 440;

/** @type {Map<TimelineView, EditorNode>} */
const views = new Map();
/** Undo makes all nodes anew: the view in which it was typed, to give it the keyboard back. @type {{ id: string | number, chosen: TimelineView["chosen"] } | null} */
let hadKeyboard = null;

/** @returns {boolean} */
function inNodes2() {
  return Boolean(/** @type {any} */ (window).LiteGraph?.vueNodesMode);
}

/** @param {EditorNode} node @param {Widget} text @param {(typeof NODES)[string]} reading */
function addView(node, text, reading) {
  let height = 120;
  const fps = node.widgets?.find(({ name }) => name === "fps");
  const view = new TimelineView({
    reading,
    read: () => String(text.value ?? ""),
    write: (written) => oneStep(node, () => (text.value = written)),
    linked: () => isLinked(node, TEXT),
    video: () => videoAround(node),
    prompts: () => (node.inputs?.some(({ name }) => name === LOOKED_UP) ? promptsBefore(node) : null),
    relations: Boolean(reading.relations),
    setFps:
      fps && !isLinked(node, "fps")
        ? (value) => oneStep(node, () => {
            fps.value = value;
            fps.callback?.(value);
          })
        : null,
    showLine: (line) => showLine(node, text, line),
    setHeight: (needed) => {
      if (needed === height) return;
      height = needed;
      grow(node);
    },
    zoomGraph: (event) => {
      if (inNodes2()) return; // there the editor sees the wheel by itself
      event.preventDefault();
      app.canvas.processMouseWheel(event);
    },
  });
  const widget = node.addDOMWidget("timeline_view", "WAN_CONDUCTOR_TIMELINE", view.element, {
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => height + MARGIN,
    serialize: false, // not in the prompt
  });
  widget.serialize = false; // not in the workflow; and so it must stay behind every widget that is saved
  const length = node.widgets?.find(({ name }) => name === LENGTH);
  if (length) length.serializeValue = () => length.value || (videoAround(node).frames?.value ?? 0); // in the prompt alone
  panWithMiddleButton(view.element);
  view.element.addEventListener("keydown", ({ ctrlKey, metaKey, key, target }) => {
    const undoes = (ctrlKey || metaKey) && ["z", "y"].includes(key.toLowerCase());
    if (undoes && target === view.element) hadKeyboard = { id: node.id, chosen: view.chosen };
  });
  follow(text, () => view.refresh());
  views.set(view, node);
  const { onRemoved } = node;
  node.onRemoved = function (...given) {
    views.delete(view);
    view.dispose();
    return onRemoved?.apply(this, given);
  };
}

/** Make a node as high as its widgets need; Nodes 2.0 does that by itself. @param {EditorNode} node */
function grow(node) {
  const least = node.computeSize()[1];
  if (!inNodes2() && node.size[1] < least) node.setSize([node.size[0], least]);
  node.setDirtyCanvas(true, true);
}

/** One step for undo. @param {EditorNode} node @param {() => void} act */
function oneStep(node, act) {
  app.canvas.emitBeforeChange();
  try {
    act();
  } finally {
    app.canvas.emitAfterChange();
  }
  node.setDirtyCanvas(true, true);
}

/** The graph has changed, so may have the videos' lengths; after undo, so have the views. */
function refreshAll() {
  const before = hadKeyboard;
  hadKeyboard = null;
  for (const [view, node] of views) {
    view.refresh();
    if (before && node.id === before.id) giveKeyboard(view, before.chosen);
  }
}

/** The classic canvas puts a new element on the page some frames later. @param {TimelineView} view @param {TimelineView["chosen"]} chosen */
function giveKeyboard(view, chosen, frames = 30) {
  view.takeKeyboard(chosen);
  if (document.activeElement !== view.element && frames) requestAnimationFrame(() => giveKeyboard(view, chosen, frames - 1));
}

/** The middle button moves the graph, over the view as elsewhere. @param {HTMLElement} element */
function panWithMiddleButton(element) {
  element.addEventListener("pointerdown", (event) => event.button === 1 && app.canvas.processMouseDown(event));
  element.addEventListener("pointermove", (event) => event.buttons & 4 && app.canvas.processMouseMove(event));
  element.addEventListener("pointerup", (event) => event.button === 1 && app.canvas.processMouseUp(event));
}

/** Call `act` whenever the widget is given a value. @param {Widget} widget @param {() => void} act */
function follow(widget, act) {
  const { callback } = widget;
  widget.callback = function (...given) {
    const answer = callback?.apply(this, given);
    act();
    return answer;
  };
}

/** Put the caret into a line of the text, wherever the renderer shows it. @param {EditorNode} node @param {Widget} text @param {number} line */
function showLine(node, text, line) {
  const own = /** @type {HTMLTextAreaElement | undefined} */ (text.element);
  const area = inNodes2() ? document.querySelector(`[data-node-id="${CSS.escape(String(node.id))}"] textarea`) : own;
  if (!(area instanceof HTMLTextAreaElement)) return;
  const lines = area.value.split("\n");
  const start = lines.slice(0, line).reduce((total, { length }) => total + length + 1, 0);
  area.focus();
  area.setSelectionRange(start, start + (lines[line]?.length ?? 0));
}

/** The editor gives a shown text two lines; make it as high as the text is. @param {CustomEvent<{ nodeId: string, text: string }>} event */
function makeRoomForShownText({ detail: { nodeId, text } }) {
  const node = app.canvas.graph?.getNodeById(String(nodeId).split(":").at(-1) ?? "");
  if (!node?.type.startsWith("WanConductor")) return;
  const shown = node.widgets?.find(({ name }) => name === SHOWN_TEXT);
  if (!shown) return;
  shown.options.getMinHeight = () => shownTextHeight(text, node.size[0]) + MARGIN;
  grow(node);
}

app.registerExtension({
  name: "WanConductor.Timeline",
  init() {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("./timeline/view.css", import.meta.url).href;
    document.head.append(sheet);
  },
  setup() {
    api.addEventListener("graphChanged", refreshAll);
    api.addEventListener("progress_text", (event) => makeRoomForShownText(/** @type {CustomEvent} */ (event)));
  },
  /** @param {EditorNode & { constructor: { comfyClass?: string } }} node */
  nodeCreated(node) {
    const reading = NODES[node.constructor.comfyClass ?? node.type];
    const text = node.widgets?.find(({ name }) => name === TEXT);
    if (!reading || !text) return;
    text.options.getMinHeight ??= () => LEAST_TEXT;
    addView(node, text, reading);
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, WIDTH), height]);
  },
});
