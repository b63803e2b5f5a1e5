// The router's totals: what came in is what went out, what is kept, what was refused and what still waits.

import { Rates } from "./rates.js";
import { $, bytes, duration, mark, number, rate, short, write } from "./text.js";

const PARTS = ["accepted", "delivered", "stored", "errored", "queued"];
const SAMPLES = 60; // a minute of snapshots

const rates = new Rates();
let history = [];

export function showOverview({ uptime, counters, agents, streams, agents_total = agents.length, streams_total = streams.length }) {
  const values = PARTS.map((name) => counters[name] ?? 0);
  rates.add(uptime, [...values.slice(0, 4), counters.bytes_in ?? 0, counters.bytes_out ?? 0]);
  const now = rates.get();
  PARTS.forEach((name, index) => {
    write($(`total-${name}`), short(values[index]));
    mark($(`total-${name}`), "title", number(values[index]));
    if (name !== "queued") write($(`rate-${name}`), `${rate(now[index])}/s`);
  });
  write($("rate-queued"), values[4] ? "waiting" : "nothing waits");
  const [accepted, ...outcomes] = values;
  const difference = accepted - outcomes.reduce((sum, value) => sum + value, 0);
  mark($("totals"), "data-balance", difference ? "off" : "even");
  write($("balance"), difference ? `off by ${number(difference)}` : "adds up");
  write($("bytes"), `${bytes(now[4])}/s in · ${bytes(now[5])}/s out`);
  write($("uptime"), `up ${duration(uptime)}`);
  write($("count-agents"), number(agents_total));
  write($("count-streams"), number(streams_total));
  history = [...history, now[0]].slice(-SAMPLES);
  draw(history);
}

function draw(values) {
  const top = Math.max(...values, 1);
  const x = (index) => ((SAMPLES - values.length + index) / (SAMPLES - 1)) * 120;
  const y = (value) => 30 - (value / top) * 27;
  const line = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  $("spark-line").setAttribute("points", line);
  $("spark-area").setAttribute("points", `${x(0).toFixed(1)},32 ${line} 120,32`);
  write($("spark-text"), `accepted frames per second in the last minute, at most ${rate(top)}`);
}
