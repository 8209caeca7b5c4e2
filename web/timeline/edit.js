/** Edits of a timeline: text in, text out. Lines that an edit does not concern keep every byte. */

import { isAlways, plainNumber, readsOn, writtenSpan } from "./grammar.js";
import { frameOf, framesOf } from "./latent_time.js";
import { listedParts, readTimeline } from "./model.js";

/** @typedef {import("./latent_time.js").Video} Video */
/** @typedef {import("./model.js").Timeline} Timeline */
/** @typedef {import("./model.js").Reading} Reading */
/** @typedef {import("./model.js").Entry} Entry */
/** One span: the entry's index in the timeline, and the span's in the entry. @typedef {{ entry: number, span: number }} Chosen */
/** The new text, and the span that is chosen in it. @typedef {{ text: string, chosen: Chosen | null }} Edited */

const SAME = 1e-6; // frames
const DECIMALS = 4; // 1/16 s has four; thirds of a frame at 24 fps err by less than 0.002 frames

/** A line of its own for every list, and a span for every line where none has one; entries keep their indices. @param {string} text
 * @param {Reading} reading @returns {Timeline} */
export function spelledOut(text, reading) {
  const read = readTimeline(text, reading);
  const timeline = read.entries.some((entry) => entry.listed) ? withoutLists(read, reading) : read;
  if (!timeline.equalShares) return timeline;
  const written = timeline.lines.map(({ raw, eol }) => ({ raw, eol }));
  const spans = timeline.entries.map((entry) => writtenSpan(roundedShare(entry.shown[0])));
  const width = Math.max(...spans.map((span) => span.length));
  timeline.entries.forEach(({ line, from }, index) => {
    const { raw } = written[line];
    written[line].raw = `${raw.slice(0, from)}${spans[index].padEnd(width)}  ${raw.slice(from)}`;
  });
  return readTimeline(joined(written), reading);
}

/** @param {Timeline} timeline @param {Reading} reading */
function withoutLists(timeline, reading) {
  return readTimeline(timeline.lines.map((line) => unlisted(line, reading)).join(""), reading);
}

/** @param {import("./model.js").Line} line @param {Reading} reading */
function unlisted({ source, raw, eol }, reading) {
  const parts = reading.lists ? listedParts(source) : null;
  if (!parts) return raw + eol;
  const comment = raw.slice(source.code.length);
  const indent = source.code.slice(0, source.indent);
  const rows = parts.map((part) => indent + part.code.slice(part.indent));
  rows[rows.length - 1] += comment;
  return rows.join(eol || "\n") + eol;
}

/** @param {{ start: import("./grammar.js").Moment, end: import("./grammar.js").Moment }} share */
function roundedShare({ start, end }) {
  return { start: { ...start, value: rounded(start.value) }, end: { ...end, value: rounded(end.value) } };
}

/** @param {number} value */
function rounded(value) {
  return Number(value.toFixed(DECIMALS));
}

/** @param {{ raw: string, eol: string }[]} lines */
function joined(lines) {
  return lines.map(({ raw, eol }) => raw + eol).join("");
}

/** Replace [from, to) of one line. @param {Timeline} timeline @param {number} line @param {number} from @param {number} to @param {string} by */
function replaced(timeline, line, from, to, by) {
  return joined(timeline.lines.map(({ raw, eol }, at) => ({ raw: at === line ? raw.slice(0, from) + by + raw.slice(to) : raw, eol })));
}

/** Put new lines in front of line `at`; its neighbours tell how lines end. @param {Timeline} timeline @param {number} at @param {string[]} rows */
function inserted(timeline, at, rows) {
  const lines = timeline.lines.map(({ raw, eol }) => ({ raw, eol }));
  const eol = lines.find((line) => line.eol)?.eol ?? "\n";
  const before = lines.slice(0, at);
  const after = lines.slice(at);
  const open = before.at(-1);
  if (open && !open.eol) open.eol = eol;
  const written = rows.map((raw) => ({ raw, eol }));
  if (!after.length && !timeline.lines.at(-1)?.eol) written[written.length - 1].eol = "";
  return joined([...before, ...written, ...after]);
}

/** A pixel time as it is written in a unit. @param {number} frame @param {string} unit @param {Video} video */
export function writtenFrame(frame, unit, video) {
  if (frame >= video.frames - SAME) return "end";
  if (unit === "%") return `${plainNumber(rounded((100 * frame) / video.frames))}%`;
  return unit === "f" ? `${plainNumber(rounded(frame))}f` : `${plainNumber(rounded(frame / video.fps))}s`;
}

/** The unit that a line, or else the timeline, writes its times in. @param {Timeline} timeline @param {Entry} [entry] */
function unitOf(timeline, entry) {
  const spans = [...(entry?.spans ?? []), ...timeline.entries.flatMap(({ spans }) => spans)].filter((span) => !isAlways(span));
  const units = spans.flatMap(({ start, end }) => [end.unit, start.unit]);
  return units.find((unit) => unit !== "end") ?? "s";
}

/** Move the ends of a span to pixel frames. An end that stays keeps its spelling. @param {string} text @param {Reading} reading
 * @param {Chosen} chosen @param {[number, number]} frames @param {Video} video @returns {Edited} */
export function withSpan(text, reading, chosen, frames, video) {
  const timeline = spelledOut(text, reading);
  const entry = timeline.entries[chosen.entry];
  const span = entry.spans[chosen.span];
  const now = framesOf(span, video);
  const moved = frames.map((frame, side) => Math.abs(frame - now[side]) > SAME);
  if (!moved.includes(true)) return { text, chosen };
  const raw = timeline.lines[entry.line].raw;
  const sides = /** @type {const} */ (["start", "end"]);
  const written = sides.map((side, at) => {
    const place = span.places?.[at];
    if (!moved[at] && place?.own) return raw.slice(place.from, place.to);
    const unit = span[side].unit === "end" ? unitOf(timeline, entry) : span[side].unit;
    return writtenFrame(frames[at], unit, video);
  });
  const { places } = span;
  const by = places?.every(({ own }) => own)
    ? raw.slice(span.from, places[0].from) + written[0] + raw.slice(places[0].to, places[1].from) + written[1] + raw.slice(places[1].to, span.to)
    : written.join(" - ");
  return { text: replaced(timeline, entry.line, span.from, ...aligned(raw, span.to, by, span.from)), chosen };
}

/** The rest of the line stays in its column while the spaces behind the span allow it. @param {string} raw @param {number} to
 * @param {string} by @param {number} from @returns {[number, string]} */
function aligned(raw, to, by, from) {
  const gap = /^ {2,}/.exec(raw.slice(to))?.[0].length ?? 0;
  if (!gap) return [to, by];
  return [to + gap, by + " ".repeat(Math.max(2, gap + (to - from) - by.length))];
}

/** Cut a span in two at a pixel frame; the second part is a new line with the same words. @param {string} text @param {Reading} reading
 * @param {Chosen} chosen @param {number} frame @param {Video} video @returns {Edited} */
export function withSplit(text, reading, chosen, frame, video) {
  const spelled = spelledOut(text, reading);
  const entry = spelled.entries[chosen.entry];
  const span = entry.spans[chosen.span];
  const [start, end] = framesOf(span, video);
  if (frame <= start + SAME || frame >= end - SAME) return { text, chosen };
  const first = readTimeline(withSpan(spelled.text, reading, chosen, [start, frame], video).text, reading);
  const { raw, source } = spelled.lines[entry.line];
  const unit = span.end.unit === "end" ? unitOf(spelled, entry) : span.end.unit;
  const last = span.places?.[1].own ? raw.slice(span.places[1].from, span.places[1].to) : writtenFrame(end, unit, video);
  const own = `${writtenFrame(frame, unit, video)} - ${last}`;
  const behind = first.entries[chosen.entry];
  const body = raw.slice(entry.from, source.code.length);
  const indent = raw.slice(0, source.indent);
  const row = `${indent}${own}`.padEnd(behind.from - 2) + `  ${body}`;
  return { text: inserted(first, entry.line + 1, [row]), chosen: { entry: chosen.entry + 1, span: 0 } };
}

/** Take a span away, with its line if it is the only one there. @param {string} text @param {Reading} reading @param {Chosen} chosen
 * @returns {Edited} */
export function withoutSpan(text, reading, chosen) {
  const read = readTimeline(text, reading);
  const timeline = read.entries[chosen.entry].listed ? withoutLists(read, reading) : read;
  const entry = timeline.entries[chosen.entry];
  const { spans } = entry;
  if (spans.length > 1) {
    const next = spans[chosen.span + 1];
    const from = next ? spans[chosen.span].from : spans[chosen.span - 1].to;
    const to = next ? next.from : spans[chosen.span].to;
    return { text: replaced(timeline, entry.line, from, to, ""), chosen: { entry: chosen.entry, span: Math.max(0, chosen.span - 1) } };
  }
  const left = timeline.entries.length - 1;
  const others = timeline.lines.filter((_, line) => line !== entry.line);
  return { text: joined(others), chosen: left ? { entry: Math.min(chosen.entry, left - 1), span: 0 } : null };
}

/** Add a line to a subject, behind its last one. @param {string} text @param {Reading} reading @param {string | null} subject
 * @param {[number, number]} frames @param {string} body @param {Video} video @returns {Edited} */
export function withNewSpan(text, reading, subject, frames, body, video) {
  const timeline = spelledOut(text, reading);
  const before = timeline.entries.findLastIndex((entry) => entry.subject === subject);
  const sibling = timeline.entries[before];
  const header = timeline.headers.findLast((named) => named.subject === subject);
  const unit = unitOf(timeline, sibling);
  const span = frames.map((frame) => writtenFrame(frame, unit, video)).join(" - ");
  const indent = sibling ? timeline.lines[sibling.line].source.code.slice(0, timeline.lines[sibling.line].source.indent) : header ? "  " : "";
  const row = (indent + span).padEnd(sibling ? sibling.from - 2 : 0) + `  ${body}`;
  const at = Math.max(sibling?.line ?? -1, header?.line ?? -1) + 1;
  const chosen = { entry: timeline.entries.filter((entry) => entry.line < at).length, span: 0 };
  return { text: inserted(timeline, at, [row.replace(/\t/g, " ")]), chosen };
}

/** Write other words, with their strength, where the old ones stand. @param {string} text @param {Reading} reading @param {Chosen} chosen
 * @param {string} words @returns {Edited} */
export function withWords(text, reading, chosen, words) {
  const read = readTimeline(text, reading);
  const timeline = read.entries[chosen.entry].listed ? withoutLists(read, reading) : read;
  const { line, from } = timeline.entries[chosen.entry];
  const said = words.replace(/[\r\n]+/g, " ").trim();
  if (!said) return { text, chosen };
  return { text: replaced(timeline, line, from, timeline.lines[line].source.code.length, said), chosen };
}

/** @param {string} text @param {Reading} reading @param {Chosen} chosen @param {number} strength 0 or more @returns {Edited} */
export function withStrength(text, reading, chosen, strength) {
  const { body, line, listed, to } = readTimeline(text, reading).entries[chosen.entry];
  const value = Math.max(0, rounded(strength));
  const written = value === 1 && !readsOn(body) ? "" : `x${plainNumber(value)}`;
  if (listed || !written) return withWords(text, reading, chosen, `${body}  ${written}`);
  const timeline = readTimeline(text, reading);
  const { source, raw } = timeline.lines[line];
  const gap = /^\s+/.exec(raw.slice(to, source.code.length))?.[0] ?? "  ";
  return { text: replaced(timeline, line, to, source.code.length, gap + written), chosen };
}

/** Call a subject otherwise, in each of its headers; the lines above every header get one. @param {string} text @param {Reading} reading
 * @param {string | null} subject @param {string} name @returns {Edited} */
export function withSubjectNamed(text, reading, subject, name) {
  const timeline = readTimeline(text, reading);
  const said = name.replace(/[\r\n:：]+/g, " ").trim();
  if (!said) return { text, chosen: null };
  if (subject === null) {
    const first = timeline.entries.find((entry) => entry.subject === null);
    return { text: inserted(timeline, first?.line ?? 0, [`${said}:`]), chosen: null };
  }
  const lines = timeline.lines.map(({ raw, eol }) => ({ raw, eol }));
  for (const header of timeline.headers.filter((named) => named.subject === subject)) {
    const { raw } = lines[header.line];
    lines[header.line].raw = raw.slice(0, header.from) + said + raw.slice(header.to);
  }
  return { text: joined(lines), chosen: null };
}

/** Add a header at the end. @param {string} text @param {Reading} reading @param {string} name @returns {Edited} */
export function withSubject(text, reading, name) {
  const timeline = readTimeline(text, reading);
  const said = name.replace(/[\r\n:：]+/g, " ").trim();
  if (!said) return { text, chosen: null };
  const last = timeline.lines.findLastIndex(({ raw }) => raw.trim());
  return { text: inserted(timeline, last + 1, [`${said}:`]), chosen: null };
}

/** The pixel frames of a chosen span. @param {Timeline} timeline @param {Chosen} chosen @param {Video} video @returns {[number, number]} */
export function chosenFrames(timeline, chosen, video) {
  const { start, end } = timeline.entries[chosen.entry].shown[chosen.span];
  return [frameOf(start, video), frameOf(end, video)];
}
