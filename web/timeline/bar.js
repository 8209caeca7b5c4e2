/** The bar above the tracks: rate, length, when the chosen span is, and the buttons. */

import { iconButton, made, numberField } from "./elements.js";
import { MOST_ZOOM } from "./gestures.js";
import { plainNumber } from "./grammar.js";
import { latentFrames, pixelFrames } from "./latent_time.js";
import { KEYS, fpsTitle, lengthTitle, status } from "./wording.js";

/** @typedef {import("./view.js").TimelineView} View */

/** @param {View} view */
export function bar(view) {
  const bar = made("div", "bar");
  bar.title = KEYS;
  const linked = view.ground.linked();
  bar.append(fpsField(view), lengthField(view), statusField(view));
  const edits = made("span", "buttons");
  const zooms = made("span", "buttons");
  const pressed = (/** @type {() => void} */ act) => () => {
    view.element.focus({ preventScroll: true });
    act();
  };
  edits.append(
    iconButton("add a line (N)", linked, pressed(() => view.startNew())),
    iconButton("add a subject", linked, pressed(() => view.startEditing({ kind: "subject" }))),
    iconButton("split the span (S)", linked || !view.chosen, pressed(() => view.split())),
    iconButton("delete the span (Delete)", linked || !view.chosen, pressed(() => view.remove())),
  );
  zooms.append(
    iconButton("zoom out (-)", view.zoom <= 1, pressed(() => view.zoomTo(view.zoom / 1.5))),
    iconButton("zoom in (+)", view.zoom >= MOST_ZOOM, pressed(() => view.zoomTo(view.zoom * 1.5))),
  );
  bar.append(edits, zooms);
  return bar;
}

/** @param {View} view */
function fpsField(view) {
  const { fps } = view.around;
  const label = made("label", "fps");
  const { setFps } = view.ground;
  label.title = fpsTitle(fps);
  if (setFps) label.append(numberField(fps.value, (value) => setFps(value), () => view.render()), "fps");
  else label.append(`${plainNumber(fps.value)} fps`);
  return label;
}

/** @param {View} view */
function lengthField(view) {
  const { frames } = view.around;
  const label = made("label", "length");
  label.title = lengthTitle(frames, view.video);
  const choose = (/** @type {number} */ value) => (view.assumed = pixelFrames(latentFrames(value)));
  if (frames) label.append(`${frames.value} frames`);
  else label.append(numberField(view.video.frames, choose, () => view.render()), "frames");
  return label;
}

/** When the chosen span is. @param {View} view */
function statusField({ chosen, tracks, timeline, video }) {
  const field = made("span", "status");
  field.setAttribute("aria-live", "polite");
  const shown = tracks.some(({ blocks }) => blocks.some(({ entry, span }) => entry === chosen?.entry && span === chosen.span));
  if (!chosen || !shown) return field;
  const { words, title } = status(timeline, chosen, video);
  field.textContent = words;
  field.title = title;
  return field;
}
