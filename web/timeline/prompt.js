/** Whether the words of a timeline are in the prompt, before anything runs. What counts are the real tokens, in guidance/phrases.py, which this
 * follows on plain text: where it cannot tell, it says nothing. tests/vectors/phrases.json binds both. */

/** @typedef {import("./model.js").Entry} Entry */
/** @typedef {import("./model.js").Problem} Problem */
/** @typedef {import("./model.js").Timeline} Timeline */

const SPACELESS = ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Bopomofo"];
const IN_WORD = `(?!${SPACELESS.map((script) => `\\p{Script=${script}}`).join("|")})[\\p{L}\\p{N}\\p{M}_]`;
const NEEDLESS_SPACE = new RegExp(`(?<!${IN_WORD}) | (?!${IN_WORD})`, "gu");
const CHOICE = /[{}]/; // of dynamic prompts: made when the prompt is queued

/** As words are compared: without case, forms of characters, and spaces that separate no words. @param {string} text */
function folded(text) {
  const plain = text.normalize("NFKC").toUpperCase().toLowerCase().replace(/\p{Cf}/gu, "");
  return plain.trim().replace(/\s+/gu, " ").replace(NEEDLESS_SPACE, "");
}

/** Without the brackets of weights, as in `(red cat:1.2)`. @param {string} prompt */
function unweighted(prompt) {
  return prompt.replace(/:\s*-?[\d.]+\s*\)/g, " ").replace(/(?<!\\)[()]/g, " ");
}

/** @param {string} prompt @param {string} phrase */
export function has(prompt, phrase) {
  const bare = (/** @type {string} */ text) => folded(text.replace(/\\([()])/g, "$1"));
  const sought = bare(phrase);
  const escaped = sought.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  const begins = new RegExp(`^${IN_WORD}`, "u").test(sought) ? `(?<!${IN_WORD})` : "";
  return new RegExp(begins + escaped, "u").test(bare(unweighted(prompt)));
}

/** The words of an entry that are looked up: all of it, or what stands between its bars but for the relation.
 * @param {Entry} entry @param {boolean} relations */
function phrasesOf({ body, subject }, relations) {
  if (!relations) return [body];
  const relation = subject === null ? 1 : 0;
  return body.split("|").flatMap((part, place) => (place === relation ? [] : [part.trim()])).filter(Boolean);
}

/** What a timeline asks for and no prompt has. @param {Timeline} timeline @param {string[] | null} prompts null: not known
 * @param {boolean} relations whether its lines are such @returns {Problem[]} */
export function missing(timeline, prompts, relations) {
  if (!prompts || prompts.some((prompt) => CHOICE.test(prompt))) return [];
  const lacks = (/** @type {string} */ phrase) => !prompts.some((prompt) => has(prompt, phrase));
  const asked = timeline.entries.filter(({ strength }) => strength > 0);
  const headers = timeline.headers.filter(({ subject }) => lacks(subject) && asked.some((entry) => entry.subject === subject));
  const entries = timeline.entries.flatMap((entry, index) => {
    const words = asked.includes(entry) ? phrasesOf(entry, relations).find(lacks) : undefined;
    return words === undefined ? [] : [{ ...at(timeline, entry), ...not(words), subject: entry.subject, entry: index }];
  });
  return [...headers.map((header) => ({ ...at(timeline, header), ...not(header.subject), subject: header.subject })), ...entries];
}

/** @param {string} words */
function not(words) {
  return { message: `“${words}” is not in the prompt` };
}

/** @param {Timeline} timeline @param {{ line: number, from: number }} said */
function at({ lines }, { line, from }) {
  return { line, column: [...lines[line].raw.slice(0, from)].length + 1 };
}
