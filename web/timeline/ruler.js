/** The ruler: seconds or frames, and the latent frames with what the chosen span covers of them. */

import { hue, made } from "./elements.js";
import { edges, latentFrames, lineWeights } from "./latent_time.js";
import { ticks } from "./layout.js";
import { latentTitle } from "./wording.js";

/** Its labels depend on the width, its cells on what is chosen.
 * @param {import("./view.js").TimelineView} view @param {number} width CSS pixels */
export function rulerParts({ video, timeline, tracks, chosen }, width) {
  const share = (/** @type {number} */ frame) => `${(100 * frame) / video.frames}%`;
  const labels = ticks(video, width).map(({ frame, label }) => {
    const tick = made("span", "tick", label);
    tick.style.left = share(frame);
    return tick;
  });
  const weights = chosen ? lineWeights(timeline.entries[chosen.entry].shown, video) : null;
  const own = tracks.findIndex(({ blocks }) => blocks.some((block) => block.entry === chosen?.entry));
  const all = edges(latentFrames(video.frames));
  const cells = all.slice(1).map((after, latent) => {
    const first = all[latent];
    const cell = made("span", "latent");
    cell.style.left = share(first);
    cell.style.width = share(after - first);
    if (weights) {
      cell.style.setProperty("--hue", hue(Math.max(0, own)));
      cell.style.setProperty("--weight", `${100 * weights[latent]}%`);
    }
    cell.title = latentTitle(latent, first, after, weights && weights[latent]);
    return cell;
  });
  return [...labels, ...cells];
}
