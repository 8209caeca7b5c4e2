/** The timeline on the screen: shows a text, and turns what hands do into edits of that text. It keeps nothing that the text does not say. */

import { bar } from "./bar.js";
import { chosenFrames, withNewSpan, withoutSpan, withSpan, withSplit, withStrength } from "./edit.js";
import { made } from "./elements.js";
import { nudged, placeOfNew, placeOfSplit, zoomWithin } from "./gestures.js";
import { key } from "./keyboard.js";
import { pixelFrames } from "./latent_time.js";
import { HEIGHT, blockAcross, blockBeside, tracksOf, viewHeight } from "./layout.js";
import { framesNeeded, readTimeline } from "./model.js";
import { USUAL_FRAMES } from "./neighbours.js";
import { listenToPointer } from "./pointer.js";
import { missing } from "./prompt.js";
import { rulerParts } from "./ruler.js";
import { body } from "./tracks.js";

/** @typedef {import("./edit.js").Chosen} Chosen */
/** @typedef {import("./edit.js").Edited} Edited */
/** @typedef {import("./gestures.js").Drag} Drag */
/** @typedef {import("./layout.js").Track} Track */
/** @typedef {import("./neighbours.js").Found} Found */
/**
 * What the view sits on: where the text is, and what the graph around it says.
 * @typedef {object} Ground
 * @property {import("./model.js").Reading} reading
 * @property {() => string} read
 * @property {(text: string) => void} write one step for undo
 * @property {() => boolean} linked whether the text comes from another node
 * @property {() => { fps: Found, frames: Found | null }} video
 * @property {() => string[] | null} prompts whose words the text speaks of; null where that is not known
 * @property {boolean} relations whether its lines are relations, `a | left of | b`
 * @property {((fps: number) => void) | null} setFps null where the node has no such input
 * @property {(line: number) => void} showLine puts the caret into a line of the text
 * @property {(height: number) => void} setHeight
 * @property {(event: WheelEvent) => void} zoomGraph
 */
/** @typedef {{ kind: "words", chosen: Chosen } | { kind: "new", subject: string | null, frames: [number, number] }
 *   | { kind: "name", subject: string | null } | { kind: "subject" }} Editing */

/** What is chosen, edited and dragged, the elements that show it, and the edits. bar.js, tracks.js, ruler.js and fields.js draw it,
 * pointer.js and keyboard.js call it. */
export class TimelineView {
  /** @param {Ground} ground */
  constructor(ground) {
    this.ground = ground;
    /** @type {Chosen | null} */
    this.chosen = null;
    /** @type {Editing | null} */
    this.editing = null;
    /** What the open field edits. @type {Editing | null | undefined} */
    this.opened = undefined;
    /** @type {Drag | null} */
    this.drag = null;
    /** @type {string | null} the text while a drag has not ended */
    this.draft = null;
    this.zoom = 1;
    /** Frames chosen here, where the graph does not tell. @type {number | null} */
    this.assumed = null;
    this.shown = "";
    this.cursor = 0; // pixel time under the pointer
    this.pressed = { x: 0, at: 0 };
    this.text = "";
    this.timeline = readTimeline("");
    this.around = ground.video();
    /** @type {import("./latent_time.js").Video} */
    this.video = { frames: USUAL_FRAMES, fps: this.around.fps.value };
    /** @type {Track[]} */
    this.tracks = [];
    this.rendering = false;
    /** @type {HTMLElement | undefined} */
    this.scroll = undefined;
    /** @type {HTMLElement | undefined} as wide as the whole video */
    this.time = undefined;
    /** @type {HTMLElement | undefined} */
    this.ruler = undefined;
    /** @type {HTMLElement | undefined} under the pointer */
    this.line = undefined;
    this.element = made("div", "wan-conductor-timeline");
    this.element.tabIndex = 0;
    this.element.dataset.captureWheel = "true"; // Nodes 2.0 leaves the wheel to a focused element that says so
    this.element.setAttribute("role", "application");
    this.element.setAttribute("aria-label", "Timeline");
    listenToPointer(this);
    this.element.addEventListener("keydown", (event) => key(this, event));
    this.resizing = new ResizeObserver(() => this.drawRuler());
    this.resizing.observe(this.element);
    this.render();
  }

  dispose() {
    this.resizing.disconnect();
  }

  /** Show what the text and the graph say now, if that has changed. */
  refresh() {
    if (this.drag || this.signature() === this.shown) return;
    if (this.editing && this.ground.read() !== this.text) this.editing = null;
    this.render();
  }

  /** @param {Chosen | null} chosen as far as the text still has it */
  takeKeyboard(chosen) {
    this.element.focus({ preventScroll: true });
    this.choose(chosen);
  }

  signature() {
    const { fps, frames } = this.ground.video();
    return JSON.stringify([this.ground.linked(), fps, frames, this.ground.prompts(), this.ground.read()]);
  }

  // ---- what is shown

  render() {
    this.read();
    const left = this.scroll?.scrollLeft ?? 0;
    const typed = this.opened === this.editing ? this.openField()?.value : undefined;
    this.rendering = true;
    this.element.replaceChildren(bar(this), this.ground.linked() ? this.notice() : this.body());
    this.rendering = false;
    if (this.scroll) this.scroll.scrollLeft = left;
    this.drawRuler();
    this.tellHeight();
    const field = this.openField();
    field?.focus({ preventScroll: true });
    if (field && typed !== undefined) field.value = typed;
    else field?.select();
    this.opened = this.editing;
  }

  /** Take over what the text, or the draft of a drag, and the graph say. */
  read() {
    this.shown = this.signature();
    this.text = this.draft ?? this.ground.read();
    this.timeline = readTimeline(this.text, this.ground.reading);
    const { fps, frames } = this.ground.video();
    this.around = { fps, frames };
    const needed = framesNeeded(this.timeline, fps.value);
    const assumed = this.assumed ?? Math.max(USUAL_FRAMES, pixelFrames(1 + Math.ceil(Math.max(0, needed - 1) / 4)));
    this.video = { fps: fps.value, frames: frames?.value ?? assumed };
    const unknown = missing(this.timeline, this.ground.prompts(), this.ground.relations);
    this.tracks = tracksOf(this.timeline, this.video, frames !== null || this.assumed !== null, unknown);
    const { chosen } = this;
    const still = this.tracks.some(({ blocks }) => blocks.some(({ entry, span }) => entry === chosen?.entry && span === chosen.span));
    if (!still) this.chosen = null;
  }

  notice() {
    this.scroll = undefined;
    return made("div", "notice", "The text comes in through the socket `timeline`: edit it where it is written.");
  }

  body() {
    const { element, scroll, time, ruler, line } = body(this);
    Object.assign(this, { scroll, time, ruler, line });
    return element;
  }

  drawRuler() {
    if (this.ruler && this.time) this.ruler.replaceChildren(...rulerParts(this, this.time.offsetWidth || 300));
  }

  /** @returns {HTMLInputElement | null} */
  openField() {
    return this.element.querySelector("input.editor, .name input");
  }

  tellHeight() {
    const editingSubject = this.editing?.kind === "subject" ? HEIGHT.lane + HEIGHT.gap : 0;
    const height = viewHeight(this.tracks) + editingSubject + 2;
    this.element.style.minHeight = `${height}px`;
    this.ground.setHeight(height);
  }

  /** The time under `clientX`, or the middle, stays where it is. @param {number} zoom @param {number} [clientX] */
  zoomTo(zoom, clientX) {
    const { scroll } = this;
    const box = scroll?.getBoundingClientRect();
    const at = scroll && box && clientX !== undefined ? ((clientX - box.left) / box.width) * scroll.clientWidth : (scroll?.clientWidth ?? 0) / 2;
    const before = this.zoom;
    this.zoom = zoomWithin(zoom);
    const left = scroll ? ((scroll.scrollLeft + at) * this.zoom) / before - at : 0;
    this.render();
    if (this.scroll) this.scroll.scrollLeft = left;
  }

  // ---- edits

  /** @param {Edited} edited */
  commit({ text, chosen }) {
    this.chosen = chosen ?? this.chosen;
    if (text !== this.ground.read()) this.ground.write(text);
    this.render();
  }

  /** @param {Chosen | null} chosen */
  choose(chosen) {
    this.chosen = chosen;
    this.render();
    const block = /** @type {HTMLElement | null} */ (this.element.querySelector(".block.chosen"));
    if (!block || !this.scroll || this.drag) return;
    const { offsetLeft, offsetWidth } = block;
    const { scrollLeft, clientWidth } = this.scroll;
    if (offsetLeft < scrollLeft || offsetLeft + Math.min(offsetWidth, clientWidth) > scrollLeft + clientWidth) this.scroll.scrollLeft = offsetLeft - 10;
  }

  /** @param {Editing} editing */
  startEditing(editing) {
    if (this.ground.linked()) return;
    if (editing.kind === "words") this.chosen = editing.chosen;
    this.editing = editing;
    this.render();
  }

  /** A new line where the chosen one ends, or at the pointer. */
  startNew() {
    this.startEditing({ kind: "new", ...placeOfNew(this.timeline, this.tracks, this.chosen, this.cursor, this.video) });
  }

  /** @param {{ subject: string | null, frames: [number, number] }} place @param {string} said */
  addLine({ subject, frames }, said) {
    this.commit(withNewSpan(this.text, this.ground.reading, subject, frames, said.trim(), this.video));
  }

  /** Move the chosen span by one latent, or one of its ends. @param {number} by @param {0 | 1 | null} side */
  nudge(by, side) {
    const { chosen, timeline, video } = this;
    if (!chosen) return false;
    const to = nudged(chosenFrames(timeline, chosen, video), by, side, video);
    this.commit(withSpan(this.text, this.ground.reading, chosen, to, video));
    return true;
  }

  /** At the pointer where that is inside the span, else in its middle. */
  split() {
    const { chosen, timeline, video } = this;
    if (!chosen) return false;
    const frame = placeOfSplit(chosenFrames(timeline, chosen, video), this.cursor, video);
    this.commit(withSplit(this.text, this.ground.reading, chosen, frame, video));
    return true;
  }

  remove() {
    if (!this.chosen) return true; // nothing is chosen: the node must not be deleted instead
    const { text, chosen } = withoutSpan(this.text, this.ground.reading, this.chosen);
    this.chosen = chosen;
    this.commit({ text, chosen });
    return true;
  }

  /** @param {number} by */
  strengthen(by) {
    if (!this.chosen) return false;
    const { strength } = this.timeline.entries[this.chosen.entry];
    this.commit(withStrength(this.text, this.ground.reading, this.chosen, strength + by));
    return true;
  }

  /** To the next span; behind the last one Tab leaves the view. @param {number} by */
  next(by) {
    const block = blockBeside(this.tracks, this.chosen, by);
    this.choose(block && { entry: block.entry, span: block.span });
    return block !== null;
  }

  /** @param {number} by */
  across(by) {
    const block = this.chosen ? blockAcross(this.tracks, this.chosen, by) : blockBeside(this.tracks, null, by);
    if (block) this.choose({ entry: block.entry, span: block.span });
    return true;
  }
}
