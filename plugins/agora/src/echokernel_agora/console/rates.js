const WINDOW = 3; // snapshots that a rate is over: one alone jumps

// Rates from counters that only grow; a counter that shrank belongs to a router that started anew.
export class Rates {
  #samples = [];

  add(time, values) {
    const last = this.#samples.at(-1);
    if (last && (time <= last.time || values.some((value, index) => value < last.values[index]))) this.#samples = [];
    this.#samples.push({ time, values });
    if (this.#samples.length > WINDOW + 1) this.#samples.shift();
  }

  get() {
    const first = this.#samples[0], last = this.#samples.at(-1);
    const seconds = last.time - first.time;
    return last.values.map((value, index) => (seconds > 0 ? (value - first.values[index]) / seconds : 0));
  }
}
