/** How one line of a timeline is read. The grammar is guidance/timeline.ebnf; tests/vectors/timeline.json binds this reader and Python's. */

/**
 * A point of pixel time: `value` seconds "s", pixel frames "f" or percent of the video "%"; "end" ignores the value.
 * @typedef {{ value: number, unit: "s" | "f" | "%" | "end" }} Moment
 */
/**
 * Where a moment is written: [from, to) in the line. `own`: it can be rewritten alone, because it carries its own unit.
 * @typedef {{ from: number, to: number, own: boolean }} Place
 */
/**
 * A half-open stretch of pixel time, written at [from, to) of its line; an `always` has no places of its own.
 * @typedef {{ start: Moment, end: Moment, from: number, to: number, places?: [Place, Place] }} Span
 */
/**
 * One typed line. `code` is the line without its comment, `plain` the fold of `code`, UTF-16 unit for UTF-16 unit.
 * @typedef {{ number: number, raw: string, code: string, plain: string, indent: number }} Source
 */

const SPACE = "[\\s\\x1c-\\x1f\\x85]"; // what Python calls white space
const WORD = "[\\p{L}\\p{N}_]";
const NUMBER = "(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)";
const COMMENT = new RegExp(`(?:^|${SPACE})#`, "u");
const SPACES = new RegExp(`${SPACE}*`, "uy");
const DASH = new RegExp(`${SPACE}*-${SPACE}*`, "uy");
// both cases spelled out: without case, /u takes the long s for an s
const ALWAYS = new RegExp(`[aA][lL][wW][aA][yY][sS](?=${SPACE}|[:,]|$)`, "uy");
const AFTER_SPAN = new RegExp(`${SPACE}|[:,]|$`, "uy");
const AFTER_SPANS = new RegExp(`(?:${SPACE}|[:,])*`, "uy");
const NEXT_SPAN = new RegExp(`${SPACE}*,${SPACE}*`, "uy");
const BULLET = new RegExp(`[-*•]${SPACE}+`, "uy");
const STRENGTH = new RegExp(`(?:^|${SPACE})x(?<number>[-+]?(?:${NUMBER}(?:[eE][-+]?[0-9]+)?|inf|nan))$`, "u");
const MOMENT = new RegExp(
  `(?<end>[eE][nN][dD])(?!${WORD})` +
    "|(?<clock>[0-9]+:[0-9]+(?::[0-9]+)?(?:\\.[0-9]+)?)" +
    `|(?<number>-?${NUMBER})(?:${SPACE}*(?<unit>[sSfF](?!${WORD})|%)|(?<unknown>(?:(?![\\p{Nd}_])${WORD})+))?`,
  "uy",
);
const TIME = `(?:[0-9]+(?::[0-9]+)+(?:\\.[0-9]+)?|${NUMBER}${SPACE}*(?:[sSfF]|%))`;
const RANGE = `(?:(?:${TIME}|${NUMBER})${SPACE}*-${SPACE}*${TIME}|${TIME}${SPACE}*-${SPACE}*[eE][nN][dD])`;
const SPAN_BEHIND = new RegExp(`${SPACE}[[(]?${RANGE}[\\])]?$`, "u");
/** @type {Record<string, string>} */
const CLOSING = { "[": "]", "(": ")" };
const FOLDED = /[\uff01-\uff5e‐‑‒–—―−﹣~〜×\u3000]/g;
const NOT_A_SPAN = "if this is not a span, write `always` before it";

/** @type {Moment} */
export const START = { value: 0, unit: "s" };
/** @type {Moment} */
export const END = { value: 0, unit: "end" };

/** What is wrong in a timeline, where, and what to do; `line` and `column` count from 1, columns in code points. */
export class TimelineError extends Error {
  /** @param {string} message @param {Source} source @param {number} at */
  constructor(message, source, at) {
    super(message);
    this.line = source.number;
    this.column = [...source.raw.slice(0, at)].length + 1;
  }
}

/** Full-width ASCII, dashes, the multiplication sign and the ideographic space as ASCII. @param {string} text */
export function fold(text) {
  return text.replace(FOLDED, (character) => {
    if (character === "×") return "x";
    if (character === "\u3000") return " ";
    const ascii = String.fromCharCode(character.charCodeAt(0) - 0xfee0);
    return character >= "\uff01" && ascii !== "~" ? ascii : "-";
  });
}

/** @param {number} number @param {string} raw @returns {Source} */
export function sourceOf(number, raw) {
  const seen = raw.replaceAll("\ufeff", " ");
  const comment = COMMENT.exec(fold(seen));
  const code = trimmedEnd(comment ? seen.slice(0, comment.index) : seen);
  return { number, raw, code, plain: fold(code), indent: skip(SPACES, code, 0) };
}

/** The same line with a pasted bullet blanked, so that places stay those of the typed line. @param {Source} source @returns {Source} */
export function withoutBullet(source) {
  const bullet = match(BULLET, source.plain, source.indent);
  if (!bullet) return source;
  const blanked = source.raw.slice(0, source.indent) + " ".repeat(bullet[0].length) + source.raw.slice(source.indent + bullet[0].length);
  return { ...sourceOf(source.number, blanked), raw: source.raw };
}

/** A regular expression at one place. @param {RegExp} sticky @param {string} text @param {number} at */
function match(sticky, text, at) {
  sticky.lastIndex = at;
  return sticky.exec(text);
}

/** The place behind what `sticky` matches at `at`; `at` itself where it does not. @param {RegExp} sticky @param {string} text @param {number} at */
function skip(sticky, text, at) {
  return at + (match(sticky, text, at)?.[0].length ?? 0);
}

const TRAILING = new RegExp(`${SPACE}$`, "u");

/** @param {string} text */
function trimmedEnd(text) {
  let end = text.length; // a regular expression for the whole run would be quadratic in a line of spaces
  while (end > 0 && TRAILING.test(text[end - 1])) end--;
  return text.slice(0, end);
}

/** @param {string} text */
export function stripped(text) {
  return trimmedEnd(text).slice(skip(SPACES, text, 0));
}

/** The span that starts at `at`, or null where the text there is none. @param {Source} source @param {number} at @returns {Span | null} */
export function readSpan(source, at) {
  const plain = source.plain;
  const always = match(ALWAYS, plain, at);
  if (always) return { start: START, end: END, from: at, to: at + always[0].length };
  const closing = CLOSING[plain[at]] ?? "";
  const inside = skip(SPACES, plain, at + closing.length);
  const first = match(MOMENT, plain, inside);
  const dash = first && match(DASH, plain, inside + first[0].length);
  if (!first || !dash) return null;
  const behindDash = dash.index + dash[0].length;
  const second = match(MOMENT, plain, behindDash);
  let stop = second ? behindDash + second[0].length : behindDash;
  if (second && closing) {
    stop = skip(SPACES, plain, stop);
    if (plain[stop] !== closing) {
      throw new TimelineError(`the span is not closed: write \`${closing}\` after it, or no brackets`, source, stop);
    }
    stop += 1;
  }
  if (!second || !match(AFTER_SPAN, plain, stop)) {
    const timed = first.groups?.unit || first.groups?.clock;
    if (timed && (second || !dash[0].endsWith("-") || behindDash === plain.length)) {
      const wrong = `the span does not end in a time: write it as \`2s - 3.5s\` or \`2s - end\`; ${NOT_A_SPAN}`;
      throw new TimelineError(wrong, source, behindDash);
    }
    return null;
  }
  const start = readMoment(source, first, second);
  const end = readMoment(source, second, first);
  checkOrder(source, start, end, inside);
  return { start, end, from: at, to: stop, places: [placeOf(first), placeOf(second)] };
}

/** @param {RegExpExecArray} found @returns {Place} */
function placeOf(found) {
  const own = Boolean(found.groups?.end || found.groups?.unit);
  return { from: found.index, to: found.index + found[0].length, own };
}

/** One end of a span; a bare number takes the unit of the other end. @param {Source} source @param {RegExpExecArray} found
 * @param {RegExpExecArray} other @returns {Moment} */
function readMoment(source, found, other) {
  const { end, clock, number, unknown } = found.groups ?? {};
  if (end) return END;
  if (clock) return { value: clock.split(":").reduce((total, part) => 60 * total + Number(part), 0), unit: "s" };
  const at = found.index;
  if (unknown) {
    const known = "units are s (seconds), f (frames) and %, with a space after them";
    throw new TimelineError(`unknown unit \`${unknown}\`: ${known}; ${NOT_A_SPAN}`, source, at + number.length);
  }
  const value = Number(number);
  const unit = (found.groups?.unit ?? other.groups?.unit ?? "").toLowerCase();
  if (!unit && value !== 0) {
    throw new TimelineError(`\`${number}\` has no unit: write s (seconds), f (frames) or % after it; ${NOT_A_SPAN}`, source, at);
  }
  if (!Number.isFinite(value)) throw new TimelineError("this time is not a finite number: write a smaller one", source, at);
  if (found[0].startsWith("-")) throw new TimelineError(`negative time \`${found[0]}\`: a video starts at 0s`, source, at);
  if (unit === "%" && value > 100) {
    throw new TimelineError(`\`${found[0]}\` lies outside the video: write at most 100%, or \`end\``, source, at);
  }
  return { value, unit: /** @type {Moment["unit"]} */ (unit || "s") };
}

/** Refuse a reversed or empty span where the units allow it without knowing the video. @param {Source} source @param {Moment} start
 * @param {Moment} end @param {number} at */
function checkOrder(source, start, end, at) {
  const ends = start.unit === "end" || end.unit === "end";
  if (start.unit !== end.unit && !ends && start.value !== 0 && end.value !== 0) return;
  const first = start.unit === "end" ? Infinity : start.value;
  const last = end.unit === "end" ? Infinity : end.value;
  const span = `\`${writtenMoment(start)} - ${writtenMoment(end)}\``;
  if (first > last) throw new TimelineError(`reversed span ${span}: write the earlier time first`, source, at);
  if (first === last) throw new TimelineError(`empty span ${span}: its end must come after its start`, source, at);
}

/** All spans at the start of a line, and where its body starts. @param {Source} source @returns {{ spans: Span[], body: number }} */
export function readSpans(source) {
  const spans = [];
  let at = source.indent;
  let body = at;
  for (let span = readSpan(source, at); span; span = readSpan(source, at)) {
    spans.push(span);
    body = span.to;
    const comma = match(NEXT_SPAN, source.plain, body);
    if (!comma) break;
    at = body + comma[0].length;
  }
  return { spans, body: spans.length ? skip(AFTER_SPANS, source.plain, body) : body };
}

/** The subject of a header line, written at [from, to). @param {Source} source */
export function readHeader(source) {
  const name = trimmedEnd(source.code.slice(source.indent, -1));
  if (!name) throw new TimelineError("a header without a subject: write a name before the `:`", source, source.indent);
  if (readSpan(source, source.indent)) {
    const wrong = "a line that ends in `:` is a header and has no span: drop the `:` or the span";
    throw new TimelineError(wrong, source, source.code.length - 1);
  }
  return { subject: name, from: source.indent, to: source.indent + name.length };
}

/** What a line says: its body at [from, to), and its strength, written at [to, code.length). @param {Source} source */
export function readEntry(source) {
  const { spans, body: from } = readSpans(source);
  const found = STRENGTH.exec(source.plain.slice(from));
  const said = trimmedEnd(found ? source.code.slice(from, from + found.index) : source.code.slice(from));
  const body = stripped(said);
  if (!body || source.plain[from] === "#") {
    const place = found ? "before the strength" : "after the span";
    throw new TimelineError(`nothing is said to happen: write a phrase ${place}`, source, from);
  }
  const behind = spans.length ? null : SPAN_BEHIND.exec(source.plain.slice(from, from + said.length));
  if (behind) {
    const at = from + behind.index + 1;
    const right = `${source.code.slice(at, from + said.length)}  ${stripped(source.code.slice(from, at))}`;
    throw new TimelineError(`the span stands in front of what happens: write \`${right}\`; ${NOT_A_SPAN}`, source, at);
  }
  const number = found?.groups?.number;
  const strength = number === undefined ? 1 : Number(number);
  if (!Number.isFinite(strength) || strength < 0) {
    const at = source.plain.length - String(number).length;
    throw new TimelineError(`strength \`x${number}\`: a finite number, 0 or more, as in x1.5`, source, at);
  }
  return { spans, body, strength, from: from + said.length - body.length, to: from + said.length };
}

/** Whether `body` needs its strength written although it is 1, because its end would read as a strength or a header. @param {string} body */
export function readsOn(body) {
  const plain = fold(body);
  return plain.endsWith(":") || STRENGTH.test(plain);
}

/** The shortest decimal that reads back as `value`, without an exponent. @param {number} value */
export function plainNumber(value) {
  const [digits, exponent] = String(value).split("e");
  if (exponent === undefined) return digits;
  const [whole, fraction = ""] = digits.split(".");
  const places = Number(exponent);
  if (places < 0) return `0.${"0".repeat(-places - 1)}${whole}${fraction}`;
  return whole + fraction.padEnd(places, "0");
}

/** @param {Moment} moment */
export function writtenMoment(moment) {
  return moment.unit === "end" ? "end" : plainNumber(moment.value) + moment.unit;
}

/** @param {{ start: Moment, end: Moment }} span */
export function isAlways({ start, end }) {
  return start.value === 0 && start.unit !== "end" && end.unit === "end";
}

/** @param {{ start: Moment, end: Moment }} span */
export function writtenSpan(span) {
  return isAlways(span) ? "always" : `${writtenMoment(span.start)} - ${writtenMoment(span.end)}`;
}
