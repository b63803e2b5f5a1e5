// WebSockets to the router that this page came from, and the token that they need, if any.

const TOKEN = "agora.token";

// Kept for this tab alone, and sent as a subprotocol: a token in an address ends in logs and histories.
export const token = {
  get value() { try { return sessionStorage.getItem(TOKEN) ?? ""; } catch { return this.kept ?? ""; } },
  set value(text) {
    this.kept = text;
    try { text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN); } catch { /* kept in memory */ }
  },
};

export function base64url(text) {
  const binary = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

// A browser fails a handshake whose subprotocols nobody answered, so without a token none are offered.
export function open(path) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return token.value
    ? new WebSocket(url, ["agora.v1", `agora.bearer.${base64url(token.value)}`])
    : new WebSocket(url);
}

const FIRST_WAIT = 1, LONGEST_WAIT = 15; // seconds; a console that was left open overnight asks four times a minute
const SILENCE = 8000; // ms without a snapshot, eight times its interval: the connection is dead, whatever the socket says

// The news of the router, each second: state() is told what goes on, snapshot() what came, error() what it refused.
export class Feed {
  #socket = null;
  #wait = FIRST_WAIT;
  #timer = 0;
  #watchdog = 0;

  constructor({ snapshot, state, error }) {
    Object.assign(this, { snapshot, state, error });
    addEventListener("online", () => this.now());
  }

  start() {
    clearTimeout(this.#timer);
    const socket = (this.#socket = open("/console"));
    let opened = false;
    this.state("connecting");
    this.#watch();
    socket.onopen = () => { opened = true; };
    socket.onmessage = (event) => {
      this.#watch();
      const frame = JSON.parse(event.data);
      if (frame.type === "error") return this.error(frame);
      if (frame.type !== "snapshot") return;
      this.#wait = FIRST_WAIT;
      this.state("live");
      this.snapshot(frame);
    };
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#lost(opened, event);
    };
  }

  now() {
    if (this.#socket?.readyState === WebSocket.OPEN) return;
    this.#wait = FIRST_WAIT;
    this.#drop();
    this.start();
  }

  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    socket?.close();
  }

  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      this.#drop();
      this.#again("it said nothing for 8 seconds");
    }, SILENCE);
  }

  async #lost(opened, event) {
    clearTimeout(this.#watchdog);
    const socket = this.#socket;
    const why = event.reason || (opened ? `code ${event.code}` : "it does not answer");
    const answer = opened ? null : await ask();
    if (socket !== this.#socket) return;
    if (answer?.status === 401 || answer?.status === 403) this.state("refused", answer);
    else if (answer?.status === 200) this.#again("it answers, but no WebSocket comes about; a proxy in between has to pass them on");
    else this.#again(answer?.text || why);
  }

  #again(why) {
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    this.state("lost", { why, until: Date.now() + wait * 1000 });
    this.#timer = setTimeout(() => this.start(), wait * 1000);
  }
}

// A page is not told why its handshake failed. The same question by HTTP tells a router that refuses from one that is away.
// The metrics are for operators only, as the console is.
async function ask() {
  try {
    const headers = token.value ? { Authorization: `Bearer ${token.value}` } : {};
    const answer = await fetch("/metrics", { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(5000) });
    return { status: answer.status, text: answer.ok ? "" : (await answer.text()).slice(0, 500).trim() };
  } catch {
    return null;
  }
}
