// The parts of the page, wired to the router's news.

import { showAgents, startAgents } from "./agents.js";
import { Feed, token } from "./link.js";
import { showLists, startLists } from "./lists.js";
import { showOverview } from "./overview.js";
import { compose, self, startSend } from "./send.js";
import { $, announce, clock, duration, element, number, visible, write } from "./text.js";

const KNOWN = 500; // ids offered while one is typed

let latest = null;
let drawn = null;
let known = "";

// A page in the background draws nothing; it catches up when it is seen.
function draw() {
  if (latest === null || latest === drawn || document.hidden) return;
  drawn = latest;
  const snapshot = { agents: [], streams: [], errors: [], counters: {}, uptime: 0, ...latest };
  showOverview(snapshot);
  showAgents(snapshot);
  showLists(snapshot);
  const ids = snapshot.agents.slice(0, KNOWN).map((agent) => agent.id);
  if (ids.join("\n") !== known) {
    known = ids.join("\n");
    $("known").replaceChildren(...ids.map((id) => Object.assign(element("option"), { value: id })));
  }
}

const feed = new Feed({
  error(frame) { announce(`The router answered ${visible(frame.code)}: ${visible(frame.message)}`); },
  snapshot(frame) { latest = frame; feed.at = new Date(); draw(); },
  state(state, about = {}) {
    clearInterval(feed.countdown);
    const before = document.body.dataset.state;
    document.body.dataset.state = state;
    if (state !== "connecting") { // a token that is tried leaves its form where it is
      $("gate").hidden = state !== "refused";
      $("content").hidden = state === "refused";
    }
    $("forget").hidden = !token.value;
    $("lost").hidden = state !== "lost";
    write($("state"), { live: "Live", lost: "Connection lost", refused: "Token needed", connecting: before === "lost" ? "Connection lost" : "Connecting" }[state]);
    if (state === "live" && before === "connecting" && latest && feed.missed) announce("The connection to the router is back.");
    if (state === "live") feed.missed = false;
    if (state === "refused") ask(about);
    if (state === "lost") lost(about);
  },
});

function lost({ why, until }) {
  if (!feed.missed) announce(`The connection to the router is lost: ${visible(why)}. The page tries again by itself.`);
  feed.missed = true;
  const tell = () => {
    const left = Math.max(0, Math.ceil((until - Date.now()) / 1000));
    write($("lost-text"), `No connection to the router: ${visible(why)}. ${latest ? `What you see is from ${clock(feed.at)}. ` : ""}Next try in ${duration(left)}.`);
  };
  tell();
  feed.countdown = setInterval(tell, 1000);
}

// The router says why: the token is unknown, or no operator's. Without a token, that one is needed goes without saying.
function ask({ status, text }) {
  const why = token.value || status !== 401 ? `Refused: ${visible(text)}` : "";
  write($("gate-error"), why);
  $("gate-error").hidden = !why;
  token.value = "";
  $("forget").hidden = true;
  $("token").value = "";
  $("token").focus();
}

let doomed = null; // the agent that a question is open about

function disconnect(agent) {
  doomed = agent;
  const waiting = agent.queue_frames ? ` ${number(agent.queue_frames)} frames wait for it.` : "";
  write($("confirm-text"), `The router closes the connection of ${visible(agent.id)} (${visible(agent.name)}).${waiting} An agent that reconnects by itself comes back.`);
  $("confirm").showModal();
}

function confirmed() {
  const { id } = doomed;
  $("confirm").close();
  announce(feed.send({ type: "disconnect", id })
    ? `Asked the router to disconnect ${visible(id)}.`
    : "There is no connection to the router, so nothing was disconnected.");
}

startAgents({ message: compose, disconnect, self });
startLists();
startSend();
$("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  if (!/^[!-~]+$/.test(given)) {
    write($("gate-error"), "A token has letters, digits and ASCII signs alone, and no spaces.");
    $("gate-error").hidden = false;
    return $("token").focus();
  }
  token.value = given;
  $("token").value = "";
  feed.start();
});
$("forget").addEventListener("click", () => { token.value = ""; location.reload(); });
$("retry").addEventListener("click", () => feed.now());
$("confirm-yes").addEventListener("click", confirmed);
$("confirm-no").addEventListener("click", () => $("confirm").close());
document.addEventListener("visibilitychange", () => { draw(); if (!document.hidden && document.body.dataset.state === "lost") feed.now(); });
feed.start();
