/** The timeline on the screen: shows a text, and turns what hands do into edits of that text. It keeps nothing that the text does not say. */

import {
  chosenFrames,
  withNewSpan,
  withoutSpan,
  withSpan,
  withSplit,
  withStrength,
  withSubject,
  withSubjectNamed,
  withWords,
} from "./edit.js";
import { plainNumber, writtenSpan } from "./grammar.js";
import { drawn, edgeBeside, edges, framesOf, latentFrames, latentsBetween, lineWeights, moved, pixelFrames, resized, snapped } from "./latent_time.js";
import { HEIGHT, blockAcross, blockBeside, ticks, trackHeight, tracksOf, viewHeight } from "./layout.js";
import { framesNeeded, readTimeline } from "./model.js";
import { USUAL_FRAMES } from "./neighbours.js";

/** @typedef {import("./edit.js").Chosen} Chosen */
/** @typedef {import("./edit.js").Edited} Edited */
/** @typedef {import("./layout.js").Track} Track */
/** @typedef {import("./layout.js").Block} Block */
/** @typedef {import("./neighbours.js").Found} Found */
/**
 * What the view sits on: where the text is, and what the graph around it says.
 * @typedef {object} Ground
 * @property {import("./model.js").Reading} reading
 * @property {() => string} read
 * @property {(text: string) => void} write one step for undo
 * @property {() => boolean} linked whether the text comes from another node
 * @property {() => { fps: Found, frames: Found | null }} video
 * @property {((fps: number) => void) | null} setFps null where the node has no such input
 * @property {(line: number) => void} showLine puts the caret into a line of the text
 * @property {(height: number) => void} setHeight
 * @property {(event: WheelEvent) => void} zoomGraph
 */
/** @typedef {{ kind: "words", chosen: Chosen } | { kind: "new", subject: string | null, frames: [number, number] }
 *   | { kind: "name", subject: string | null } | { kind: "subject" }} Editing */
/** @typedef {{ text: string, chosen: Chosen | null, subject: string | null, side: 0 | 1 | null, frames: [number, number], grabbed: number,
 *   moved: boolean, again: boolean }} Drag */

// Apart for every kind of colour vision, and legible as a tint on black and on white.
const HUES = ["#4a9be8", "#e69f00", "#2bb596", "#d779b1", "#e0604c", "#9a8cf0", "#b0a12e", "#58b8d8"];
const ICONS = {
  "add a line (N)": "M8 3v10M3 8h10",
  "add a subject": "M2 4h7M2 8h5M2 12h5M12 8v6M9 11h6",
  "split the span (S)": "M8 2v12M2 5h3v6H2M14 5h-3v6h3",
  "delete the span (Delete)": "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5",
  "zoom out (-)": "M7 7m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0M10.5 10.5L14 14M5 7h4",
  "zoom in (+)": "M7 7m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0M10.5 10.5L14 14M5 7h4M7 5v4",
};
const KEYS =
  "Drag a span to move it, its ends to resize it, an empty place to add one; Alt: to a single frame. Double-click: write its words.\n" +
  "Keys: Tab next span, arrows move it, Shift+arrows its end, Alt+arrows its start, Up/Down other row, Enter words, S split, N new, " +
  "Delete, [ and ] strength, + - 0 zoom, Ctrl+Z undo.";
const MOST_ZOOM = 32;
const DOUBLE = 400; // milliseconds
const DRAG_STARTS = 3; // CSS pixels; less is a click

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {string} [name] @param {string} [text] @returns {HTMLElementTagNameMap[T]} */
function made(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

export class TimelineView {
  /** @param {Ground} ground */
  constructor(ground) {
    this.ground = ground;
    /** @type {Chosen | null} */
    this.chosen = null;
    /** @type {Editing | null} */
    this.editing = null;
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
    this.element = made("div", "wan-conductor-timeline");
    this.element.tabIndex = 0;
    this.element.dataset.captureWheel = "true"; // Nodes 2.0 leaves the wheel to a focused element that says so
    this.element.setAttribute("role", "application");
    this.element.setAttribute("aria-label", "Timeline");
    this.listen();
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
    return JSON.stringify([this.ground.linked(), fps, frames, this.ground.read()]);
  }

  // ---- what is shown

  render() {
    this.shown = this.signature();
    this.text = this.draft ?? this.ground.read();
    this.timeline = readTimeline(this.text, this.ground.reading);
    const { fps, frames } = this.ground.video();
    this.around = { fps, frames };
    const needed = framesNeeded(this.timeline, fps.value);
    const assumed = this.assumed ?? Math.max(USUAL_FRAMES, pixelFrames(1 + Math.ceil(Math.max(0, needed - 1) / 4)));
    this.video = { fps: fps.value, frames: frames?.value ?? assumed };
    this.tracks = tracksOf(this.timeline, this.video, frames !== null || this.assumed !== null);
    if (this.chosen && !this.blockOf(this.chosen)) this.chosen = null;
    const left = this.scroll?.scrollLeft ?? 0;
    const typed = this.opened === this.editing ? this.openField()?.value : undefined;
    this.rendering = true;
    this.element.replaceChildren(this.bar(), ...(this.ground.linked() ? [this.notice()] : [this.body()]));
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

  /** @param {Chosen} chosen @returns {Block | undefined} */
  blockOf({ entry, span }) {
    return this.tracks.flatMap(({ blocks }) => blocks).find((block) => block.entry === entry && block.span === span);
  }

  /** @param {Chosen} chosen */
  hueOf(chosen) {
    const track = this.tracks.findIndex(({ blocks }) => blocks.some((block) => block.entry === chosen.entry));
    return HUES[Math.max(0, track) % HUES.length];
  }

  bar() {
    const bar = made("div", "bar");
    bar.title = KEYS;
    const linked = this.ground.linked();
    bar.append(this.fpsField(), this.lengthField(), this.status());
    const edits = made("span", "buttons");
    const zooms = made("span", "buttons");
    edits.append(
      this.button("add a line (N)", linked, () => this.startNew()),
      this.button("add a subject", linked, () => this.startEditing({ kind: "subject" })),
      this.button("split the span (S)", linked || !this.chosen, () => this.split()),
      this.button("delete the span (Delete)", linked || !this.chosen, () => this.remove()),
    );
    zooms.append(
      this.button("zoom out (-)", this.zoom <= 1, () => this.zoomTo(this.zoom / 1.5)),
      this.button("zoom in (+)", this.zoom >= MOST_ZOOM, () => this.zoomTo(this.zoom * 1.5)),
    );
    bar.append(edits, zooms);
    return bar;
  }

  /** @param {keyof typeof ICONS} title @param {boolean} disabled @param {() => void} act */
  button(title, disabled, act) {
    const button = made("button");
    button.type = "button";
    button.title = title;
    button.setAttribute("aria-label", title);
    button.disabled = disabled;
    button.tabIndex = -1;
    button.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[title]}"/></svg>`;
    button.addEventListener("click", () => {
      this.element.focus({ preventScroll: true });
      act();
    });
    return button;
  }

  fpsField() {
    const { fps } = this.around;
    const label = made("label", "fps");
    const { setFps } = this.ground;
    label.title = fps.from ? `Frames per second: from ${fps.from}` : "Frames per second: assumed. Type another, and the node's fps is set.";
    if (setFps) label.append(this.number(fps.value, (value) => setFps(value)), "fps");
    else label.append(`${plainNumber(fps.value)} fps`);
    return label;
  }

  lengthField() {
    const { frames } = this.around;
    const label = made("label", "length");
    const seconds = `${plainNumber(Number((this.video.frames / this.video.fps).toFixed(2)))} s, ${latentFrames(this.video.frames)} latent frames`;
    if (frames) {
      label.title = `The video's length, from ${frames.from}: ${seconds}.`;
      label.append(`${frames.value} frames`);
    } else {
      label.title = `No node tells the video's length; this one is only for looking and is not saved: ${seconds}.`;
      const choose = (/** @type {number} */ value) => (this.assumed = pixelFrames(latentFrames(value)));
      label.append(this.number(this.video.frames, choose), "frames");
    }
    return label;
  }

  /** @param {number} value @param {(value: number) => void} set */
  number(value, set) {
    const input = made("input");
    input.type = "number";
    input.min = "0";
    input.value = plainNumber(value);
    input.addEventListener("change", () => {
      const typed = Number(input.value);
      if (Number.isFinite(typed) && typed >= 0) set(typed);
      this.render();
    });
    return input;
  }

  /** When the chosen span is, in seconds. */
  status() {
    const status = made("span", "status");
    status.setAttribute("aria-live", "polite");
    const block = this.chosen && this.blockOf(this.chosen);
    if (!this.chosen || !block) return status;
    const [start, end] = chosenFrames(this.timeline, this.chosen, this.video);
    const seconds = (/** @type {number} */ frame) => plainNumber(Number((frame / this.video.fps).toFixed(2)));
    status.textContent = `${seconds(start)} – ${seconds(end)} s`;
    status.title = `${this.times(block)}, ${Math.round(10 * latentsBetween(start, end)) / 10} latent frames`;
    return status;
  }

  notice() {
    this.scroll = undefined;
    return made("div", "notice", "The text comes in through the socket `timeline`: edit it where it is written.");
  }

  body() {
    const body = made("div", "body");
    const names = made("div", "names");
    this.scroll = made("div", "scroll");
    this.time = made("div", "time");
    this.time.style.width = `${100 * this.zoom}%`;
    this.ruler = made("div", "ruler");
    this.time.append(this.ruler);
    const tracks = this.tracks;
    names.classList.toggle("alone", tracks.length === 1 && tracks[0].subject === null && this.editing?.kind !== "subject");
    tracks.forEach((track, index) => {
      const hue = HUES[index % HUES.length];
      names.append(this.name(track, hue));
      this.time?.append(this.track(track, hue));
    });
    if (this.editing?.kind === "subject") {
      const name = made("div", "name");
      name.append(this.field("", "subject", (said) => this.commit(withSubject(this.text, this.ground.reading, said))));
      names.append(name);
    }
    this.line = made("div", "cursor");
    this.line.hidden = true;
    this.time.append(this.line);
    this.scroll.append(this.time);
    body.append(names, this.scroll);
    return body;
  }

  /** @param {Track} track @param {string} hue */
  name(track, hue) {
    const name = made("div", "name");
    name.style.height = `${trackHeight(track)}px`;
    name.style.setProperty("--hue", hue);
    const { subject } = track;
    if (this.editing?.kind === "name" && this.editing.subject === subject) {
      const rename = (/** @type {string} */ said) => this.commit(withSubjectNamed(this.text, this.ground.reading, subject, said));
      name.append(this.field(subject ?? "", "subject", rename));
    } else {
      name.title = subject === null ? "Lines above every header. Double-click to name their subject." : `${subject}\nDouble-click to rename.`;
      name.append(made("span", "", subject ?? ""));
      name.addEventListener("dblclick", () => this.startEditing({ kind: "name", subject }));
    }
    return name;
  }

  /** @param {Track} track @param {string} hue */
  track(track, hue) {
    const row = made("div", "track");
    row.style.height = `${trackHeight(track)}px`;
    row.style.setProperty("--hue", hue);
    row.dataset.track = String(this.tracks.indexOf(track));
    for (const block of track.blocks) row.append(this.block(block));
    track.problems.forEach((problem, index) => {
      const line = made("div", "problem");
      line.style.top = `${track.lanes * HEIGHT.lane + index * HEIGHT.problem + 1}px`;
      const message = problem.entry === undefined ? problem.message : `this span ${problem.message}`;
      line.title = `line ${problem.line + 1}, column ${problem.column}: ${message}\nClick to go there.`;
      line.append(made("b", "", `line ${problem.line + 1}`), made("span", "", message));
      line.addEventListener("click", () => this.ground.showLine(problem.line));
      row.append(line);
    });
    const { editing } = this;
    if (editing?.kind === "new" && editing.subject === track.subject) {
      if (this.drag) row.append(this.ghost(editing.frames));
      else row.append(this.overlay(editing.frames, 0, "", "words, then Enter", (said) => this.addLine(editing, said)));
    }
    return row;
  }

  /** @param {Block} block */
  block(block) {
    const frames = this.video.frames;
    const { entry, span } = block;
    const element = made("div", "block");
    Object.assign(element.dataset, { entry, span });
    element.style.left = `${(100 * block.start) / frames}%`;
    element.style.width = `${(100 * (block.end - block.start)) / frames}%`;
    element.style.top = `${block.lane * HEIGHT.lane + 2}px`;
    element.classList.toggle("chosen", this.chosen?.entry === entry && this.chosen.span === span);
    element.classList.toggle("shared", Boolean(this.timeline.equalShares));
    element.classList.toggle("off", block.strength === 0);
    element.classList.toggle("wrong", block.problem !== null);
    const strength = block.strength === 1 ? "" : `×${plainNumber(block.strength)}`;
    element.title = `${block.label} ${strength}\n${this.times(block)}`;
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", `${block.label} ${strength}, ${this.times(block)}`);
    element.append(made("span", "words", block.label));
    if (strength) element.append(made("span", "strength", strength));
    element.append(made("span", "edge start"), made("span", "edge end"));
    if (this.editing?.kind !== "words" || this.editing.chosen.entry !== entry || this.editing.chosen.span !== span) return element;
    return this.overlay([block.start, block.end], block.lane, this.words(this.editing.chosen), "words x1.5", (said) =>
      this.commit(withWords(this.text, this.ground.reading, { entry, span }, said)),
    );
  }

  /** @param {Block} block */
  times({ entry, span }) {
    const { shown, spans } = this.timeline.entries[entry] ?? { shown: [], spans: [] };
    const [start, end] = framesOf(shown[span], this.video);
    const round = (/** @type {number} */ frame) => plainNumber(Number(frame.toFixed(2)));
    const written = spans.length ? writtenSpan(shown[span]) : "an equal share";
    return `${written} · frames ${round(start)} to ${round(end)}`;
  }

  /** The span that is being drawn. @param {[number, number]} frames */
  ghost([start, end]) {
    const element = made("div", "block chosen");
    element.style.left = `${(100 * start) / this.video.frames}%`;
    element.style.width = `${(100 * (end - start)) / this.video.frames}%`;
    element.style.top = "2px";
    return element;
  }

  /** The words of an entry as typed, strength included. @param {Chosen} chosen */
  words({ entry }) {
    const said = this.timeline.entries[entry];
    if (!said) return "";
    if (said.listed) return said.body;
    return this.timeline.lines[said.line].source.code.slice(said.from);
  }

  /** A field over a span. @param {[number, number]} frames @param {number} lane @param {string} value @param {string} hint
   * @param {(said: string) => void} done */
  overlay([start, end], lane, value, hint, done) {
    const total = this.video.frames;
    const field = this.field(value, hint, done);
    field.classList.add("editor");
    const width = `min(100%, max(180px, ${(100 * (end - start)) / total}%))`;
    field.style.width = width;
    field.style.left = `min(${(100 * start) / total}%, 100% - ${width})`;
    field.style.top = `${lane * HEIGHT.lane + 2}px`;
    return field;
  }

  /** Enter and leaving it take what is typed, Escape drops it. @param {string} value @param {string} hint @param {(said: string) => void} done */
  field(value, hint, done) {
    const input = made("input");
    input.value = value;
    input.placeholder = hint;
    let open = true;
    const close = (/** @type {boolean} */ take) => {
      if (!open) return;
      open = false;
      this.editing = null;
      if (take && input.value.trim() && input.value !== value) done(input.value);
      else this.render();
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      close(event.key === "Enter");
      this.element.focus({ preventScroll: true });
    });
    input.addEventListener("blur", () => this.rendering || close(true));
    return input;
  }

  /** The ruler's labels depend on the width, its cells on what is chosen. */
  drawRuler() {
    const { ruler, video, time } = this;
    if (!ruler || !time) return;
    const share = (/** @type {number} */ frame) => `${(100 * frame) / video.frames}%`;
    const labels = ticks(video, time.offsetWidth || 300).map(({ frame, label }) => {
      const tick = made("span", "tick", label);
      tick.style.left = share(frame);
      return tick;
    });
    const weights = this.chosen ? lineWeights(this.timeline.entries[this.chosen.entry].shown, video) : null;
    const all = edges(latentFrames(video.frames));
    const cells = all.slice(1).map((after, latent) => {
      const cell = made("span", "latent");
      cell.style.left = share(all[latent]);
      cell.style.width = share(after - all[latent]);
      if (weights && this.chosen) {
        cell.style.setProperty("--hue", this.hueOf(this.chosen));
        cell.style.setProperty("--weight", `${100 * weights[latent]}%`);
      }
      const first = all[latent];
      cell.title = `latent ${latent}: ${after - first === 1 ? `frame ${first}` : `frames ${first} to ${after - 1}`}`;
      if (weights) cell.title += `, covered ${Math.round(100 * weights[latent])} %`;
      return cell;
    });
    ruler.replaceChildren(...labels, ...cells);
  }

  // ---- what hands do

  listen() {
    const { element } = this;
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.release(event));
    element.addEventListener("pointercancel", () => this.dropDrag());
    element.addEventListener("pointerenter", () => this.refresh());
    element.addEventListener("pointerleave", () => this.line && (this.line.hidden = true));
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  /** Pixel time under the pointer, in frames. @param {MouseEvent} event */
  frameAt(event) {
    const box = this.time?.getBoundingClientRect();
    if (!box?.width) return 0;
    return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1) * this.video.frames;
  }

  /** @param {Event} event @returns {{ chosen: Chosen | null, side: 0 | 1 | null, track: Track } | null} */
  under(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const row = /** @type {HTMLElement | null} */ (target.closest(".track"));
    if (!row || target.closest("input, .problem")) return null;
    const block = /** @type {HTMLElement | null} */ (target.closest(".block"));
    const chosen = block && { entry: Number(block.dataset.entry), span: Number(block.dataset.span) };
    const side = target.matches(".edge.start") ? 0 : target.matches(".edge.end") ? 1 : null;
    return { chosen, side, track: this.tracks[Number(row.dataset.track)] };
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (event.button !== 0 || /** @type {HTMLElement} */ (event.target).closest("input, button")) return;
    this.element.focus({ preventScroll: true });
    const under = this.under(event);
    if (!under) return;
    const { chosen, side, track } = under;
    const again = event.timeStamp - this.pressed.at < DOUBLE && Math.abs(event.clientX - this.pressed.x) < DRAG_STARTS;
    this.pressed = { x: event.clientX, at: again ? 0 : event.timeStamp };
    const grabbed = this.frameAt(event);
    const frames = chosen ? chosenFrames(this.timeline, chosen, this.video) : drawn(grabbed, grabbed, this.video);
    this.drag = { text: this.text, chosen, subject: track.subject, side, frames, grabbed, moved: false, again };
    this.element.setPointerCapture(event.pointerId); // Nodes 2.0 keeps pointer events from reaching the document
    this.choose(chosen);
  }

  /** @param {PointerEvent} event */
  move(event) {
    const { drag, video } = this;
    const frame = this.frameAt(event);
    this.cursor = snapped(frame, video);
    if (this.line) {
      this.line.hidden = !drag && !this.under(event);
      this.line.style.left = `${(100 * this.cursor) / video.frames}%`;
    }
    if (!drag) return;
    if (!drag.moved && Math.abs(event.clientX - this.pressed.x) < DRAG_STARTS) return;
    drag.moved = true;
    this.element.classList.add("dragging");
    if (!drag.chosen) {
      this.editing = { kind: "new", subject: drag.subject, frames: drawn(drag.grabbed, frame, video) };
      this.render();
      return;
    }
    const frames = this.dragged(drag, frame, event.altKey);
    const edited = withSpan(drag.text, this.ground.reading, drag.chosen, frames, video);
    this.draft = edited.text;
    this.chosen = edited.chosen;
    this.render();
  }

  /** @param {Drag} drag @param {number} frame @param {boolean} fine @returns {[number, number]} */
  dragged({ frames, side, grabbed }, frame, fine) {
    const video = this.video;
    if (side !== null) return resized(frames, side, frame, video, fine);
    if (!fine) return moved(frames, latentsBetween(grabbed, frame), video);
    const by = Math.min(Math.max(Math.round(frame - grabbed), -frames[0]), video.frames - frames[1]);
    return [frames[0] + by, frames[1] + by];
  }

  /** @param {PointerEvent} event */
  release(event) {
    const { drag, draft } = this;
    if (!drag) return;
    if (this.element.hasPointerCapture(event.pointerId)) this.element.releasePointerCapture(event.pointerId);
    this.drag = null;
    this.draft = null;
    this.element.classList.remove("dragging");
    if (draft !== null && draft !== drag.text) this.commit({ text: draft, chosen: this.chosen });
    else if (drag.again && !drag.moved) this.open(drag);
    else this.render();
  }

  dropDrag() {
    if (!this.drag) return;
    this.drag = null;
    this.draft = null;
    if (this.editing?.kind === "new") this.editing = null;
    this.element.classList.remove("dragging");
    this.render();
  }

  /** A double click, counted here: the elements of the first click are not those of the second. @param {Drag} drag */
  open({ chosen, subject, grabbed }) {
    if (chosen) return this.startEditing({ kind: "words", chosen });
    const frame = snapped(grabbed, this.video);
    return this.startEditing({ kind: "new", subject, frames: drawn(frame, frame + this.video.fps, this.video) });
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    const own = this.element.contains(document.activeElement);
    const scroll = this.scroll;
    const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    const body = scroll?.parentElement;
    if (own && event.ctrlKey) {
      event.preventDefault();
      event.stopPropagation();
      this.zoomTo(this.zoom * Math.exp(-event.deltaY / 300), event.clientX);
    } else if (own && sideways && scroll && scroll.scrollWidth > scroll.clientWidth) {
      event.stopPropagation();
    } else if (own && !sideways && body && body.scrollHeight > body.clientHeight) {
      event.stopPropagation();
    } else {
      this.ground.zoomGraph(event);
    }
  }

  /** The time under `clientX`, or the middle, stays where it is. @param {number} zoom @param {number} [clientX] */
  zoomTo(zoom, clientX) {
    const { scroll } = this;
    const box = scroll?.getBoundingClientRect();
    const at = scroll && box && clientX !== undefined ? ((clientX - box.left) / box.width) * scroll.clientWidth : (scroll?.clientWidth ?? 0) / 2;
    const before = this.zoom;
    this.zoom = Math.min(Math.max(1, zoom), MOST_ZOOM);
    const left = scroll ? ((scroll.scrollLeft + at) * this.zoom) / before - at : 0;
    this.render();
    if (this.scroll) this.scroll.scrollLeft = left;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey) return; // the graph's undo, copy and paste stay the graph's
    const act = this.actions(event)[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || (this.ground.linked() && event.key !== "Tab")) return;
    if (act() === false) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** What each key does; false: nothing, and the editor may have it. @param {KeyboardEvent} event @returns {Record<string, () => unknown>} */
  actions({ shiftKey, altKey }) {
    const arrow = (/** @type {number} */ by) => this.nudge(by, altKey ? 0 : shiftKey ? 1 : null);
    return {
      ArrowLeft: () => arrow(-1),
      ArrowRight: () => arrow(1),
      ArrowUp: () => this.across(-1),
      ArrowDown: () => this.across(1),
      Tab: () => this.next(shiftKey ? -1 : 1),
      Enter: () => this.chosen && this.startEditing({ kind: "words", chosen: this.chosen }),
      F2: () => this.chosen && this.startEditing({ kind: "words", chosen: this.chosen }),
      Delete: () => this.remove(),
      Backspace: () => this.remove(),
      Escape: () => (this.drag ? this.dropDrag() : this.chosen ? this.choose(null) : this.element.blur()),
      s: () => this.split(),
      n: () => this.startNew(),
      "[": () => this.strengthen(-0.25),
      "]": () => this.strengthen(0.25),
      "+": () => this.zoomTo(this.zoom * 1.5),
      "=": () => this.zoomTo(this.zoom * 1.5),
      "-": () => this.zoomTo(this.zoom / 1.5),
      0: () => this.zoomTo(1),
    };
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
    const { video, chosen, tracks, timeline } = this;
    const subject = chosen ? timeline.entries[chosen.entry].subject : (tracks.at(-1)?.subject ?? null);
    const end = chosen ? chosenFrames(timeline, chosen, video)[1] : this.cursor;
    const from = end < video.frames ? end : edgeBeside(video.frames, -1, video);
    this.startEditing({ kind: "new", subject, frames: drawn(from, from + video.fps, video) });
  }

  /** @param {{ subject: string | null, frames: [number, number] }} place @param {string} said */
  addLine({ subject, frames }, said) {
    this.commit(withNewSpan(this.text, this.ground.reading, subject, frames, said.trim(), this.video));
  }

  /** Move the chosen span by one latent, or one of its ends. @param {number} by @param {0 | 1 | null} side */
  nudge(by, side) {
    const { chosen, timeline, video } = this;
    if (!chosen) return false;
    const frames = chosenFrames(timeline, chosen, video);
    const to = side === null ? moved(frames, by, video) : resized(frames, side, edgeBeside(frames[side], by, video), video, false);
    this.commit(withSpan(this.text, this.ground.reading, chosen, to, video));
    return true;
  }

  /** At the pointer where that is inside the span, else in its middle. */
  split() {
    const { chosen, timeline, video } = this;
    if (!chosen) return false;
    const [start, end] = chosenFrames(timeline, chosen, video);
    const frame = this.cursor > start && this.cursor < end ? this.cursor : snapped((start + end) / 2, video);
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
