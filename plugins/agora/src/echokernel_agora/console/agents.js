// The table of agents: filtered, sorted, changed in place; 5,000 of them may be there.

import { Keyed } from "./keyed.js";
import { Rates } from "./rates.js";
import { $, bytes, clock, element, hide, mark, number, rate, short, visible, write } from "./text.js";

const PAGE = matchMedia("(max-width: 760px)").matches ? 40 : 200; // rows at first, and more on request
const QUEUE = { queue_frames: 1024, queue_bytes: 1024 * 1024 }; // what a router allows unless its snapshot says otherwise

const collator = new Intl.Collator("en", { numeric: true });
const upwards = (one, other) => collator.compare(one, other);
const downwards = (one, other) => (one < other ? 1 : one > other ? -1 : 0);
const traffic = (agent) => rates.get(agent.id)?.get().reduce((sum, value) => sum + value, 0) ?? 0;
const ORDERS = {
  id: [(agent) => agent.id, upwards],
  name: [(agent) => agent.name, upwards],
  newest: [(agent) => agent.registered_at, downwards],
  queue: [(agent) => agent.queue_bytes ?? 0, downwards],
  traffic: [traffic, downwards],
  errors: [(agent) => agent.errors ?? 0, downwards],
};
// What is compared is asked for once; equals stay in the order in which they registered.
const sorted = (agents, [value, compare]) =>
  agents.map((agent) => [value(agent), agent]).sort(([one], [other]) => compare(one, other)).map(([, agent]) => agent);
const MOVING = new Set(["queue", "traffic", "errors"]); // they change by the second

const rates = new Map();
let latest = { agents: [] };
let shown = PAGE;
let table;
let actions;

export function startAgents(given) {
  actions = given;
  table = new Keyed($("agents"), makeRow);
  $("filter").addEventListener("input", () => { shown = PAGE; refresh(); });
  $("sort").addEventListener("change", () => refresh({ hold: false }));
  $("more").addEventListener("click", () => { shown += PAGE; refresh(); });
  $("agents").addEventListener("keydown", walk);
  $("agents").addEventListener("focusin", (event) => current(event.target.closest("tr")));
}

export function showAgents(snapshot) {
  latest = snapshot;
  const there = new Set();
  for (const agent of snapshot.agents) {
    there.add(agent.id);
    let kept = rates.get(agent.id);
    if (kept === undefined) rates.set(agent.id, (kept = new Rates()));
    kept.add(snapshot.uptime, [agent.received ?? 0, agent.sent ?? 0]);
  }
  for (const id of rates.keys()) if (!there.has(id)) rates.delete(id);
  refresh();
}

const text = (agent) => [agent.id, agent.name, agent.state, agent.transport, agent.principal, ...(agent.capabilities ?? [])]
  .join("\n").toLowerCase();

function refresh({ hold = true } = {}) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const order = $("sort").value;
  const found = sorted(latest.agents.filter((agent) => words.every((word) => text(agent).includes(word))), ORDERS[order]);
  const visibleOnes = found.slice(0, shown);
  // Rows do not move under a pointer or a keyboard's focus.
  const busy = $("agents").matches(":hover") || $("agents").contains(document.activeElement);
  const focused = $("agents").contains(document.activeElement) ? place(document.activeElement) : null;
  table.show(visibleOnes.map((agent) => [agent.id, agent]), { hold: hold && busy && MOVING.has(order) });
  if (focused !== null && !$("agents").contains(document.activeElement)) focusRow(focused);
  if (!$("agents").querySelector("tr[data-current]")) current($("agents").firstElementChild);
  const here = latest.agents.length, all = latest.agents_total ?? here; // a router with many of them sends a part
  const part = here < all ? `showing ${number(here)} of ${number(all)}` : number(all);
  write($("agents-shown"), words.length ? `${number(found.length)} of ${part}` : part);
  hide($("more"), found.length <= shown);
  write($("more"), `Show ${number(Math.min(PAGE, found.length - shown))} more of ${number(found.length)}`);
  hide($("agents-none"), found.length > 0);
  write($("agents-none"), all ? `No agent ${here < all ? `of the ${number(here)} that are shown ` : ""}matches the filter.` : "No agent is registered yet. It connects to /ws and sends a register frame.");
}

// --- a row -------------------------------------------------------------------------------------------------------

function cell(className, label, ...children) {
  const node = element("td", className, ...children);
  node.setAttribute("role", "cell");
  node.dataset.label = label;
  return node;
}

function makeRow(agent, id) {
  const dot = element("span", "dot"), toggle = element("button", "id"), label = element("span", "name");
  const state = element("span", "state"), abilities = element("span"), via = element("span", "via");
  const fill = element("span", "fill"), waiting = element("span");
  const coming = element("span"), going = element("span"), errors = element("span");
  const detail = cell("detail", "");
  const compose = element("button", "quiet icon message"), cut = element("button", "quiet icon disconnect");
  const bar = element("span", "bar", fill);
  const row = element("tr", "", cell("who", "", dot, toggle, state, element("span", "line", label, via)), cell("caps", "", abilities),
    cell("queue", "Queue", bar, waiting), cell("num", "Sends/s", coming), cell("num", "Gets/s", going),
    cell("num errors", "Errors", errors), cell("acts", "", compose, cut), detail);
  row.setAttribute("role", "row");
  for (const button of [toggle, compose, cut]) { button.type = "button"; button.tabIndex = -1; }
  dot.setAttribute("aria-hidden", "true");
  bar.setAttribute("aria-hidden", "true");
  label.dir = "auto";
  detail.id = `detail-${(makeRow.next = (makeRow.next ?? 0) + 1)}`;
  detail.hidden = true;
  toggle.setAttribute("aria-expanded", "false");
  toggle.setAttribute("aria-controls", detail.id);
  write(toggle, visible(id));
  for (const [button, what] of [[compose, `Message to ${visible(id)}`], [cut, `Disconnect ${visible(id)}`]]) {
    button.setAttribute("aria-label", what);
    button.title = what;
  }
  let last = agent;
  toggle.addEventListener("click", () => {
    detail.hidden = !detail.hidden;
    toggle.setAttribute("aria-expanded", String(!detail.hidden));
    if (!detail.hidden) showDetail(detail, last);
  });
  compose.addEventListener("click", () => actions.message(id));
  cut.addEventListener("click", () => actions.disconnect(last));
  return { node: row, update };

  function update(now) {
    last = now;
    const limits = latest.limits ?? QUEUE;
    const frames = now.queue_frames ?? 0, size = now.queue_bytes ?? 0;
    const full = Math.min(1, Math.max(frames / limits.queue_frames, size / limits.queue_bytes));
    const [incoming, outgoing] = rates.get(now.id)?.get() ?? [0, 0];
    const mine = now.id === actions.self();
    mark(row, "data-state", now.state ?? "online");
    mark(row, "data-load", full > 0.8 ? "high" : full > 0.4 ? "some" : null);
    write(label, visible(now.name) + (mine ? " (this page)" : ""));
    mark(label, "title", visible(now.name));
    mark(toggle, "title", visible(id));
    write(state, now.state && now.state !== "online" ? visible(now.state) : "");
    write(via, visible(now.transport));
    write(abilities, (now.capabilities ?? []).map(visible).join(", "));
    mark(abilities, "title", (now.capabilities ?? []).map(visible).join(", "));
    const width = `${(frames ? Math.max(full * 100, 3) : 0).toFixed(0)}%`;
    if (fill.style.width !== width) fill.style.width = width;
    write(waiting, frames ? `${number(frames)} · ${bytes(size)}` : "empty");
    mark(waiting, "data-zero", frames ? null : "");
    hide(bar, frames === 0);
    for (const [node, value] of [[coming, incoming], [going, outgoing]]) {
      write(node, rate(value));
      mark(node, "data-zero", value ? null : "");
    }
    write(errors, short(now.errors ?? 0));
    mark(errors, "data-zero", now.errors ? null : "");
    if (!detail.hidden) showDetail(detail, now);
  }
}

function showDetail(place, agent) {
  const rows = [
    ["Name", visible(agent.name)],
    ["Registered", agent.registered_at ? `${new Date(agent.registered_at).toLocaleDateString("en-GB")} ${clock(agent.registered_at)}` : "unknown"],
    ["Address", visible(agent.address) || "unknown"],
    ["Principal", visible(agent.principal) || "none"],
    ["Connected by", `${visible(agent.transport)}, ${visible(agent.state)}`],
    ["Frames", `${number(agent.received)} from it, ${number(agent.sent)} to it`],
    ["Capabilities", (agent.capabilities ?? []).map(visible).join(", ") || "none declared"],
  ];
  if (!place.firstChild) {
    const list = element("dl");
    for (const [term] of rows) list.append(element("div", "", element("dt", "", term), element("dd")));
    place.append(list);
  }
  place.querySelectorAll("dd").forEach((node, index) => write(node, rows[index][1]));
}

// --- the keyboard: one stop for the whole table, arrows between rows ------------------------------------------------

const place = (node) => [...$("agents").children].indexOf(node.closest("tr"));

function current(row) {
  const before = $("agents").querySelector("tr[data-current]");
  if (!row || before === row) return;
  for (const [node, tab] of [[before, -1], [row, 0]]) {
    node?.querySelectorAll("button").forEach((button) => { button.tabIndex = tab; });
    node?.toggleAttribute("data-current", tab === 0);
  }
}

function focusRow(index) {
  const rows = $("agents").children;
  rows[Math.max(0, Math.min(index, rows.length - 1))]?.querySelector("button.id").focus();
}

function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  focusRow(step === Infinity ? Infinity : place(event.target) + step);
}
