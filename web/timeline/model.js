/** A whole timeline text as lines, entries and tracks. One wrong line does not hide the others. */

import { END, TimelineError, readEntry, readHeader, readSpans, sourceOf, stripped, withoutBullet } from "./grammar.js";
import { frameOf, framesOf } from "./latent_time.js";

/** @typedef {import("./grammar.js").Span} Span */
/** @typedef {import("./grammar.js").Moment} Moment */
/** @typedef {import("./grammar.js").Source} Source */
/** @typedef {import("./latent_time.js").Video} Video */

/**
 * Which pasted forms the node that reads the text takes: bullets, and `a | b | c` as three lines.
 * @typedef {{ bullets?: boolean, lists?: boolean }} Reading
 */
/**
 * One statement. `line` is the index of its line in the text; `from`, `to` where its body is written there. `spans` are the written ones,
 * `shown` those it has: an equal share where none is written. `listed`: one of several on its line.
 * @typedef {{ line: number, subject: string | null, body: string, from: number, to: number, strength: number, spans: Span[],
 *   shown: { start: Moment, end: Moment }[], listed: boolean }} Entry
 */
/** @typedef {{ line: number, subject: string, from: number, to: number }} Header */
/** @typedef {{ source: Source, raw: string, eol: string }} Line */
/** @typedef {{ line: number, message: string, column: number, subject: string | null, entry?: number, span?: number }} Problem */
/** @typedef {{ text: string, lines: Line[], entries: Entry[], headers: Header[], problems: Problem[], equalShares: boolean }} Timeline */

const LINE = /([^\r\n]*)(\r\n|\r|\n|$)/g;

/** @param {string} text @returns {{ raw: string, eol: string }[]} */
export function typedLines(text) {
  const lines = [];
  for (const [, raw, eol] of text.matchAll(LINE)) {
    lines.push({ raw, eol });
    if (!eol) break;
  }
  return lines;
}

/** Read a timeline. @param {string} text @param {Reading} [reading] @returns {Timeline} */
export function readTimeline(text, reading = {}) {
  /** @type {Timeline} */
  const timeline = { text, lines: [], entries: [], headers: [], problems: [], equalShares: false };
  /** @type {string | null} */
  let subject = null;
  for (const [line, { raw, eol }] of typedLines(text).entries()) {
    const typed = sourceOf(line + 1, raw);
    const source = reading.bullets ? withoutBullet(typed) : typed;
    timeline.lines.push({ source, raw, eol });
    const parts = reading.lists ? listedParts(source) : null;
    for (const statement of parts ?? [source]) {
      try {
        subject = readStatement(timeline, statement, line, subject, Boolean(parts));
      } catch (error) {
        if (!(error instanceof TimelineError)) throw error;
        timeline.problems.push({ line, message: error.message, column: error.column, subject });
      }
    }
  }
  if (timeline.entries.some((entry) => entry.spans.length)) requireSpans(timeline);
  else shareEqually(timeline);
  return timeline;
}

/** Returns the subject of what follows. @param {Timeline} timeline @param {Source} source @param {number} line @param {string | null} subject
 * @param {boolean} listed */
function readStatement(timeline, source, line, subject, listed) {
  if (source.plain.endsWith(":")) {
    const header = readHeader(source);
    timeline.headers.push({ line, ...header });
    return header.subject;
  }
  if (source.code.length > source.indent) {
    const entry = readEntry(source);
    timeline.entries.push({ line, subject, listed, shown: entry.spans, ...entry });
  }
  return subject;
}

/** The parts of a line `a | b | c` without a span, each as a line of its own; null where the line is no list. @param {Source} source */
export function listedParts(source) {
  if (!source.plain.includes("|") || source.plain.endsWith(":")) return null;
  try {
    if (readSpans(source).spans.length) return null;
  } catch {
    return null; // the line is read whole, and then says what is wrong
  }
  const parts = [];
  for (let from = 0, bar = 0; bar >= 0; from = bar + 1) {
    bar = source.plain.indexOf("|", from);
    const part = stripped(source.code.slice(from, bar < 0 ? undefined : bar));
    if (part) parts.push(sourceOf(source.number, part));
  }
  return parts.length ? parts : null;
}

/** @param {Timeline} timeline */
function requireSpans(timeline) {
  const message = "this line has no span but others have: write one, or `always`";
  timeline.entries = timeline.entries.filter(({ spans, line, subject }) => {
    if (!spans.length) {
      const { indent, raw } = timeline.lines[line].source;
      timeline.problems.push({ line, message, column: [...raw.slice(0, indent)].length + 1, subject });
    }
    return spans.length;
  });
}

/** Line i of the n lines of its subject gets the i-th of n equal shares of the video. @param {Timeline} timeline */
function shareEqually(timeline) {
  timeline.equalShares = timeline.entries.length > 0;
  for (const { subject } of timeline.entries) {
    const sharing = timeline.entries.filter((entry) => entry.subject === subject);
    if (sharing[0].shown.length) continue;
    sharing.forEach((entry, share) => {
      /** @type {(part: number) => Moment} */
      const moment = (part) => ({ value: (100 * part) / sharing.length, unit: "%" });
      entry.shown = [{ start: moment(share), end: share + 1 === sharing.length ? END : moment(share + 1) }];
    });
  }
}

/** Spans that are reversed, empty or outside the video. @param {Timeline} timeline @param {Video} video @returns {Problem[]} */
export function outside(timeline, video) {
  /** @type {Problem[]} */
  const problems = [];
  timeline.entries.forEach((entry, index) => {
    entry.shown.forEach((span, at) => {
      const [start, end] = framesOf(span, video);
      let wrong = "";
      if (start >= video.frames) wrong = `starts after the end: the video has ${video.frames} frames`;
      else if (end > video.frames + 0.5) wrong = `ends outside the video of ${video.frames} frames; \`end\` is its end`;
      else if (start >= end) wrong = `is ${start > end ? "reversed" : "empty"} at ${video.fps} fps: its end must come after its start`;
      if (!wrong) return;
      const column = entry.spans[at] ? [...timeline.lines[entry.line].raw.slice(0, entry.spans[at].from)].length + 1 : 1;
      problems.push({ line: entry.line, message: wrong, column, subject: entry.subject, entry: index, span: at });
    });
  });
  return problems;
}

/** The pixel frames that the written times need at least. @param {Timeline} timeline @param {number} fps */
export function framesNeeded(timeline, fps) {
  const moments = timeline.entries.flatMap((entry) => entry.spans.flatMap(({ start, end }) => [start, end]));
  const fixed = moments.filter(({ unit }) => unit === "s" || unit === "f");
  return Math.max(0, ...fixed.map((moment) => frameOf(moment, { frames: 0, fps })));
}

/** The subjects in the order in which they are first named; null is that of lines above every header. @param {Timeline} timeline */
export function subjects(timeline) {
  const named = [...timeline.entries, ...timeline.headers, ...timeline.problems].sort((a, b) => a.line - b.line);
  return [...new Set(named.map(({ subject }) => subject))];
}
