// A list that follows its data: one node per key, made once, changed in place, moved only when its place changed.

export class Keyed {
  #container;
  #make;
  #rows = new Map();

  // make(item, key) returns {node, update(item)}; update writes what differs.
  constructor(container, make) {
    this.#container = container;
    this.#make = make;
  }

  get(key) { return this.#rows.get(key); }
  get size() { return this.#rows.size; }

  // items: [key, item] in their order. With hold, rows that are there keep their places, and new ones come last.
  show(items, { hold = false } = {}) {
    const wanted = new Map(items);
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      row.node.remove();
      this.#rows.delete(key);
    }
    let next = this.#container.firstElementChild;
    for (const [key, item] of wanted) {
      let row = this.#rows.get(key);
      if (row === undefined) {
        row = this.#make(item, key);
        this.#rows.set(key, row);
        this.#container.insertBefore(row.node, hold ? null : next);
      } else if (row.node === next) {
        next = next.nextElementSibling;
      } else if (!hold) {
        this.#container.insertBefore(row.node, next);
      }
      row.update(item);
    }
  }
}
