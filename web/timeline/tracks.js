/** The tracks: a row for each subject with its name, its spans, and the lines that are wrong. */

import { withSubject, withSubjectNamed, withWords } from "./edit.js";
import { hue, made } from "./elements.js";
import { field, overlay } from "./fields.js";
import { plainNumber } from "./grammar.js";
import { HEIGHT, trackHeight } from "./layout.js";
import { problemWords, subjectTitle, times, words } from "./wording.js";

/** @typedef {import("./layout.js").Block} Block */
/** @typedef {import("./layout.js").Track} Track */
/** @typedef {import("./view.js").TimelineView} View */

/** Everything under the bar, and the parts of it that the view moves. @param {View} view */
export function body(view) {
  const element = made("div", "body");
  const names = made("div", "names");
  const scroll = made("div", "scroll");
  const time = made("div", "time");
  time.style.width = `${100 * view.zoom}%`;
  const ruler = made("div", "ruler");
  time.append(ruler);
  const { tracks } = view;
  names.classList.toggle("alone", tracks.length === 1 && tracks[0].subject === null && view.editing?.kind !== "subject");
  tracks.forEach((one, index) => {
    names.append(name(view, one, hue(index)));
    time.append(track(view, one, index));
  });
  if (view.editing?.kind === "subject") {
    const added = made("div", "name");
    added.append(field(view, "", "subject", (said) => view.commit(withSubject(view.text, view.ground.reading, said))));
    names.append(added);
  }
  const line = made("div", "cursor");
  line.hidden = true;
  time.append(line);
  scroll.append(time);
  element.append(names, scroll);
  return { element, scroll, time, ruler, line };
}

/** @param {View} view @param {Track} track @param {string} tint */
function name(view, track, tint) {
  const element = made("div", "name");
  element.style.height = `${trackHeight(track)}px`;
  element.style.setProperty("--hue", tint);
  const { subject } = track;
  if (view.editing?.kind === "name" && view.editing.subject === subject) {
    const rename = (/** @type {string} */ said) => view.commit(withSubjectNamed(view.text, view.ground.reading, subject, said));
    element.append(field(view, subject ?? "", "subject", rename));
  } else {
    element.title = subjectTitle(subject);
    element.append(made("span", "", subject ?? ""));
    element.addEventListener("dblclick", () => view.startEditing({ kind: "name", subject }));
  }
  return element;
}

/** @param {View} view @param {Track} track @param {number} index */
function track(view, track, index) {
  const row = made("div", "track");
  row.style.height = `${trackHeight(track)}px`;
  row.style.setProperty("--hue", hue(index));
  row.dataset.track = String(index);
  for (const one of track.blocks) row.append(block(view, one));
  track.problems.forEach((problem, below) => {
    const line = made("div", "problem");
    line.style.top = `${track.lanes * HEIGHT.lane + below * HEIGHT.problem + 1}px`;
    const { message, title } = problemWords(problem);
    line.title = title;
    line.append(made("b", "", `line ${problem.line + 1}`), made("span", "", message));
    line.addEventListener("click", () => view.ground.showLine(problem.line));
    row.append(line);
  });
  const { editing } = view;
  if (editing?.kind === "new" && editing.subject === track.subject) {
    if (view.drag) row.append(ghost(view, editing.frames));
    else row.append(overlay(view, editing.frames, 0, "", "words, then Enter", (said) => view.addLine(editing, said)));
  }
  return row;
}

/** @param {View} view @param {Block} block */
function block(view, block) {
  const { entry, span } = block;
  const element = placed(view, block.start, block.end, block.lane);
  Object.assign(element.dataset, { entry, span });
  element.classList.toggle("chosen", view.chosen?.entry === entry && view.chosen.span === span);
  element.classList.toggle("shared", Boolean(view.timeline.equalShares));
  element.classList.toggle("off", block.strength === 0);
  element.classList.toggle("wrong", block.problem !== null);
  const strength = block.strength === 1 ? "" : `×${plainNumber(block.strength)}`;
  const when = times(view.timeline, block, view.video);
  element.title = `${block.label} ${strength}\n${when}`;
  element.setAttribute("role", "button");
  element.setAttribute("aria-label", `${block.label} ${strength}, ${when}`);
  element.append(made("span", "words", block.label));
  if (strength) element.append(made("span", "strength", strength));
  element.append(made("span", "edge start"), made("span", "edge end"));
  if (view.editing?.kind !== "words" || view.editing.chosen.entry !== entry || view.editing.chosen.span !== span) return element;
  return overlay(view, [block.start, block.end], block.lane, words(view.timeline, view.editing.chosen), "words x1.5", (said) =>
    view.commit(withWords(view.text, view.ground.reading, { entry, span }, said)),
  );
}

/** The span that is being drawn. @param {View} view @param {[number, number]} frames */
function ghost(view, [start, end]) {
  const element = placed(view, start, end, 0);
  element.classList.add("chosen");
  return element;
}

/** @param {View} view @param {number} start @param {number} end @param {number} lane */
function placed({ video }, start, end, lane) {
  const element = made("div", "block");
  element.style.left = `${(100 * start) / video.frames}%`;
  element.style.width = `${(100 * (end - start)) / video.frames}%`;
  element.style.top = `${lane * HEIGHT.lane + 2}px`;
  return element;
}
