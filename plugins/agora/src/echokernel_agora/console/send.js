// The form, and what comes back. The page becomes an agent when it first sends, with the seed's frames alone.

import { open } from "./link.js";
import { $, announce, clock, element, mark, number, parse, pretty, visible, visibleLines, write } from "./text.js";

const EXCHANGES = 20; // kept on the page; older ones go
const STREAM_TEXT = 200_000; // characters shown of one stream, so that an endless one costs no more
const REGISTER_WAIT = 10_000; // ms

let socket = null;
let registered = null; // the id that the router confirmed
let joining = null; // a promise while the registration is under way
let exchanges = []; // {id, to, streamId, node, log, status, done}
const blocks = new Map(); // kind, sender and stream id -> an open stream on the page
const stopped = new Set(); // keys of streams that were stopped here; what was under way is not shown
let serial = 0;
let following = true; // the end of the replies is in view

export const self = () => registered;

export function startSend() {
  $("sender").value = `console-${Array.from(crypto.getRandomValues(new Uint8Array(3)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  $("send").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("payload").addEventListener("input", () => { if ($("payload").ariaInvalid) check(); });
  $("payload").addEventListener("blur", check);
  $("send").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
  });
  $("exchanges").addEventListener("scroll", ({ target }) => { following = target.scrollHeight - target.scrollTop - target.clientHeight < 60; });
  for (const choice of document.querySelectorAll("input[name=form]")) choice.addEventListener("change", () => {
    $("chunks-field").hidden = !streamed();
    write($("payload-label"), streamed() ? "Payload of the start (JSON, may be empty)" : "Payload (JSON)");
  });
}

const streamed = () => $("as-stream").checked;

export function compose(to) {
  $("to").value = to;
  complain("to", "");
  $("payload").focus();
  $("send-panel").scrollIntoView({ block: "nearest" });
}

// --- the form ----------------------------------------------------------------------------------------------------

function complain(field, why) {
  write($(`${field}-error`), why);
  $(`${field}-error`).hidden = !why;
  $(field).ariaInvalid = why ? "true" : null;
  return !why;
}

function check() {
  const text = $("payload").value;
  if (!text.trim()) return complain("payload", "");
  try {
    JSON.parse(text);
    return complain("payload", "");
  } catch (error) {
    return complain("payload", `This is not JSON: ${visible(error.message)}`);
  }
}

async function submit() {
  const to = $("to").value.trim(), text = $("payload").value.trim();
  const fine = [complain("to", to ? "" : "Say which agent gets it, by its id."), check()];
  if (fine.includes(false)) return $(fine[0] ? "payload" : "to").focus();
  const exchange = begin(to, streamed() ? "a stream" : "one message");
  $("send-button").disabled = true;
  try {
    await join();
  } catch (error) {
    return finish(exchange, error.message, "bad");
  } finally {
    $("send-button").disabled = false;
  }
  const frames = streamed() ? asStream(exchange, text) : [frame("send", exchange, text && `"payload":${text}`)];
  for (const part of frames) socket.send(part);
  finish(exchange, streamed() ? `sent ${number(frames.length - 2)} chunks; waiting for a reply` : "sent; waiting for a reply", "wait");
}

// The payload goes as it was typed: parsed and written again, large numbers would change.
function frame(type, exchange, ...members) {
  const head = [`"type":${JSON.stringify(type)}`, `"to":${JSON.stringify(exchange.to)}`];
  return `{${[...head, ...members].filter(Boolean).join(",")},"id":${JSON.stringify(exchange.id)},"request_id":${JSON.stringify(exchange.id)}}`;
}

function asStream(exchange, text) {
  exchange.streamId = exchange.id;
  const stream = `"stream_id":${JSON.stringify(exchange.id)}`;
  const chunks = $("chunks").value.split("\n").filter((line, index, lines) => line || index < lines.length - 1);
  return [
    frame("send", exchange, stream, `"stream":true`, text && `"payload":${text}`),
    ...chunks.map((chunk) => frame("send_chunk", exchange, stream, `"chunk":${JSON.stringify(chunk)}`)),
    frame("send_end", exchange, stream),
  ];
}

// --- the page as an agent ------------------------------------------------------------------------------------------

function join() {
  const id = $("sender").value.trim();
  if (registered === id && socket?.readyState === WebSocket.OPEN) return Promise.resolve();
  return (joining ??= register(id).finally(() => { joining = null; }));
}

function register(id) {
  if (socket) {
    socket.close();
    gone({ reason: "it is sent as somebody else now" });
  }
  const mine = (socket = open("/ws"));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => { mine.close(); reject(new Error("the router did not answer within 10 seconds")); }, REGISTER_WAIT);
    mine.onopen = () => mine.send(JSON.stringify({ type: "register", id, name: "Console" }));
    mine.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      if (frame.type === "registered") {
        clearTimeout(timer);
        registered = frame.id;
        resolve();
      } else if (frame.type === "error" && registered !== id) {
        clearTimeout(timer);
        mine.close();
        reject(new Error(`the router refused the sender's id ${visible(id)}: ${visible(frame.code)}, ${visible(frame.message)}`));
      } else {
        take(frame, event.data);
      }
    };
    mine.onclose = (event) => {
      clearTimeout(timer);
      reject(new Error(`no connection to the router${event.reason ? `: ${visible(event.reason)}` : ""}`));
      if (mine === socket) gone(event);
    };
  });
}

function gone(event) {
  registered = null;
  socket = null;
  const why = event.reason || `code ${event.code}`;
  for (const block of [...blocks.values()]) endBlock(block, `cut: the page's connection ended (${visible(why)})`, "bad");
  for (const exchange of exchanges) {
    if (exchange.status.dataset.kind === "wait") finish(exchange, `the page's connection ended (${visible(why)}) before a reply`, "bad");
  }
}

// --- what comes back -----------------------------------------------------------------------------------------------

function take(frame, text) {
  const [kind, part] = frame.type.split("_");
  if (frame.type === "error") return failed(frame);
  if (kind !== "reply" && kind !== "message") return;
  const key = [kind, frame.from, frame.stream_id].join("\n");
  if (stopped.has(key)) {
    if (part !== "chunk") stopped.delete(key);
    if (part !== undefined) return;
  }
  if (part === "chunk") return append(blocks.get(key) ?? openBlock(key, find(kind, frame), frame, kind), String(frame.chunk));
  if (part === "end") {
    const block = blocks.get(key), why = frame.error;
    if (block) endBlock(block, why ? `aborted: ${visible(why.code)} ${visible(why.message)}` : "complete", why ? "bad" : "good");
    return;
  }
  const exchange = find(kind, frame);
  if (frame.stream ?? frame.stream_id !== undefined) {
    const block = openBlock(key, exchange, frame, kind);
    if (frame.payload !== undefined) block.node.insertBefore(element("pre", "", pretty(parse(text).payload)), block.body);
  } else {
    const body = frame.payload === undefined ? element("p", "quietly", "without a payload") : element("pre", "", pretty(parse(text).payload));
    exchange.log.append(element("div", "block", heading(frame, kind, ""), body));
    if (exchange.id) finish(exchange, "answered", "good");
  }
  scroll();
}

// A reply belongs to the message whose request_id it repeats, or to the latest one that went to its sender.
function find(kind, frame) {
  const asked = frame.request_id ?? frame.payload?.request_id;
  const own = kind === "reply"
    ? exchanges.find((one) => one.id && one.id === asked) ?? exchanges.findLast((one) => one.id && one.to === frame.from)
    : undefined;
  return own ?? begin(frame.from, kind === "reply" ? "a reply to nothing that is shown" : "a message to this page", false);
}

function failed(frame) {
  const exchange = exchanges.find((one) => one.id && (one.id === frame.id || one.id === frame.request_id || (one.streamId && one.streamId === frame.stream_id)));
  const said = `${visible(frame.code)}: ${visible(frame.message)}`;
  if (exchange) finish(exchange, said, "bad");
  else announce(`The router answered ${said}`);
}

// --- on the page ---------------------------------------------------------------------------------------------------

function begin(to, what, sent = true) {
  const status = element("span", "status"), log = element("div", "log");
  const node = element("li", "", element("div", "exchange", element("span", "arrow", sent ? "to " : "from "), element("bdi", "mono", visible(to)),
    element("span", "what", ` · ${what} · ${clock(new Date())}`)), status, log);
  const exchange = { id: sent ? `c${(serial += 1)}-${Date.now().toString(36)}` : null, to, streamId: null, node, log, status };
  exchanges.push(exchange);
  for (const old of exchanges.splice(0, exchanges.length - EXCHANGES)) old.node.remove();
  $("exchanges").append(node);
  $("exchanges-none").hidden = true;
  scroll();
  return exchange;
}

function finish(exchange, text, kind) {
  write(exchange.status, text);
  mark(exchange.status, "data-kind", kind);
  scroll();
}

function heading(frame, kind, state) {
  const note = element("span", "state", state);
  const head = element("div", "head", element("span", "", kind === "reply" ? "reply from " : "message from "), element("bdi", "mono", visible(frame.from)), note);
  head.note = note;
  return head;
}

function openBlock(key, exchange, frame, kind) {
  const head = heading(frame, kind, "streaming"), body = element("pre", "stream"), stop = element("button", "quiet", "Stop");
  stop.type = "button";
  const block = { key, body, note: head.note, stop, count: 0, length: 0, waiting: "", exchange, node: element("div", "block", head, body) };
  mark(block.note, "data-kind", "wait");
  stop.addEventListener("click", () => {
    socket?.send(JSON.stringify({ type: "stop", from: frame.from, stream_id: frame.stream_id, ...(kind === "reply" && { reply: true }) }));
    stopped.add(key);
    endBlock(block, "stopped here", "");
  });
  head.append(stop);
  blocks.set(key, block);
  exchange.log.append(block.node);
  if (exchange.id) finish(exchange, "answering", "good");
  return block;
}

// Chunks of one frame of the screen become one text node.
function append(block, chunk) {
  block.count += 1;
  if (!block.waiting) requestAnimationFrame(() => flush(block));
  block.waiting += chunk || "\u200c"; // an empty chunk asks for a drawing, too
}

function flush(block) {
  const text = block.waiting.replaceAll("\u200c", "").slice(0, Math.max(0, STREAM_TEXT - block.length));
  block.waiting = "";
  block.length += text.length;
  if (text) block.body.append(visibleLines(text));
  if (blocks.get(block.key) === block) {
    write(block.note, `streaming · ${number(block.count)} chunks${block.length >= STREAM_TEXT ? " · the rest is not shown" : ""}`);
  }
  scroll();
}

function endBlock(block, text, kind) {
  if (blocks.get(block.key) === block) blocks.delete(block.key);
  write(block.note, `${text} · ${number(block.count)} chunks`);
  mark(block.note, "data-kind", kind);
  block.stop.remove();
  if (block.exchange.id) finish(block.exchange, kind === "bad" ? text : "answered", kind || "good");
}

function scroll() {
  if (following) requestAnimationFrame(() => { $("exchanges").scrollTop = $("exchanges").scrollHeight; });
}
