// Values to text, and text into the page. What agents say about themselves reaches the page here alone, as text, never as markup.

// Controls, direction overrides and other characters that are not seen, but change how the rest looks. Joiners stay: emoji need them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const name = (character) => `‹U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;

export const visible = (value) => String(value ?? "").replace(UNSEEN, name);
export const visibleLines = (value) =>
  String(value ?? "").replace(UNSEEN, (character) => ("\n\t\r".includes(character) ? character : name(character)));

const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const number = (value) => count.format(value ?? 0);

export function short(value) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e4]]) {
    if (value >= size) return tenths.format(value / (unit === "k" ? 1e3 : size)) + unit;
  }
  return count.format(value ?? 0);
}

export function bytes(value) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${tenths.format(value / size)} ${unit}`;
  }
  return `${count.format(value ?? 0)} B`;
}

export const rate = (value) => (value >= 100 ? short(Math.round(value)) : tenths.format(value ?? 0));

export function duration(seconds) {
  const whole = Math.floor(seconds ?? 0);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function clock(at) {
  const time = at instanceof Date ? at : new Date(at);
  return Number.isNaN(time.getTime()) ? visible(at) : time.toLocaleTimeString("en-GB");
}

// JSON as it would be written by hand; numbers keep the digits that they came with, where the browser can do that.
export function pretty(value) {
  return visibleLines(typeof value === "string" ? value : JSON.stringify(value, null, 2));
}
export function parse(text) {
  return JSON.parse(text, (_key, value, context) =>
    typeof value === "number" && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value);
}

// element("td", "queue", child, child): a node with a class; strings become text.
export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Writing the same again costs a layout, reading it costs one, too: what was written is remembered beside the node.
const written = new WeakMap();
const marked = new WeakMap();
export function write(node, text) {
  if (written.get(node) === text) return;
  written.set(node, text);
  node.textContent = text;
}
export function mark(node, attribute, value) {
  let values = marked.get(node);
  if (values === undefined) marked.set(node, (values = {}));
  if (values[attribute] === value) return;
  values[attribute] = value;
  if (value === null) node.removeAttribute(attribute);
  else node.setAttribute(attribute, value);
}

export function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export const $ = (id) => document.getElementById(id);

// Said by a screen reader and shown for a moment: the outcome of what somebody did, never the news of each second.
export function announce(text) {
  const place = $("said");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => place.classList.remove("shown"), 6000);
}
