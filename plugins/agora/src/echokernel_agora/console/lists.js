// Open streams and recent errors.

import { Keyed } from "./keyed.js";
import { $, clock, duration, element, hide, mark, number, visible, write } from "./text.js";

const STREAMS = 100; // shown; the number beside the heading counts all

let streams, errors;

export function startLists() {
  streams = new Keyed($("streams"), makeStream);
  errors = new Keyed($("errors"), makeError);
}

const route = (from, to) => [element("bdi", "", visible(from)), element("span", "to", " → "), element("bdi", "", visible(to))];

function makeStream(stream) {
  const numbers = element("span", "numbers"), idle = element("span", "idle");
  const node = element("li", "", element("span", "route", ...route(stream.from, stream.to)),
    element("span", "sub", element("bdi", "mono", visible(stream.stream_id)), stream.reply ? " · reply" : ""), numbers, idle);
  return {
    node,
    update(now) {
      write(numbers, `${number(now.chunks)} chunks · ${duration(now.age)}`);
      write(idle, now.idle >= 5 ? `quiet for ${duration(now.idle)}` : "flowing");
      mark(node, "data-idle", now.idle >= 30 ? "long" : now.idle >= 5 ? "short" : null);
    },
  };
}

function makeError(error) {
  const parties = [error.agent, error.to].filter(Boolean);
  const node = element("li", "", element("span", "code", visible(error.code)), element("time", "", clock(error.at)),
    element("span", "route", ...(parties.length === 2 ? route(...parties) : parties.map((name) => element("bdi", "", visible(name))))),
    element("span", "sub", visible(error.message)));
  return { node, update() {} };
}

export function showLists(snapshot) {
  const open = snapshot.streams.slice(0, STREAMS);
  streams.show(open.map((stream) => [[stream.from, stream.to, Boolean(stream.reply), stream.stream_id].join("\n"), stream]));
  hide($("streams-none"), open.length > 0);
  write($("streams-shown"), number(snapshot.streams_total ?? snapshot.streams.length));
  const seen = new Map();
  const keyed = snapshot.errors.map((error) => {
    const key = [error.at, error.code, error.agent, error.to, error.message].join("\n");
    const before = seen.get(key) ?? 0;
    seen.set(key, before + 1);
    return [`${before}\n${key}`, error];
  });
  errors.show(keyed.reverse());
  hide($("errors-none"), keyed.length > 0);
  write($("errors-shown"), number(keyed.length));
}
