/** The elements that the view is made of. */

import { plainNumber } from "./grammar.js";

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

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {string} [name] @param {string} [text] @returns {HTMLElementTagNameMap[T]} */
export function made(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

/** @param {number} track its place among the tracks */
export function hue(track) {
  return HUES[track % HUES.length];
}

/** @param {keyof typeof ICONS} title @param {boolean} disabled @param {() => void} act */
export function iconButton(title, disabled, act) {
  const button = made("button");
  button.type = "button";
  button.title = title;
  button.setAttribute("aria-label", title);
  button.disabled = disabled;
  button.tabIndex = -1;
  button.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[title]}"/></svg>`;
  button.addEventListener("click", act);
  return button;
}

/** @param {number} value @param {(value: number) => void} set @param {() => void} after called for any input, taken or not */
export function numberField(value, set, after) {
  const input = made("input");
  input.type = "number";
  input.min = "0";
  input.value = plainNumber(value);
  input.addEventListener("change", () => {
    const typed = Number(input.value);
    if (Number.isFinite(typed) && typed >= 0) set(typed);
    after();
  });
  return input;
}
