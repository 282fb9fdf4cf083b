// The connections that the list has: the newest from the stream, older ones page by page. It is apart from the view, which draws it at
// most once a frame.

import { get, post } from "/ui/api.js";
import { verdictOf } from "/ui/ui.js";

const page = 200; // rows of a request
const most = 120000; // rows kept; the oldest go

// startOf tells a connection from others, also of another run of refd.
const startOf = (r) => r.started + "~" + r.local;

export class Rows {
  constructor(params) {
    this.params = params;
    this.list = []; // the oldest first, so that new ones are pushed
    this.base = 0; // the place of the first of the list, which older ones do not move
    this.byID = new Map();
    this.counts = {};
    this.total = 0;
    this.end = false; // memory has nothing older
    this.past = ""; // "end": nor has the history
    this.skipped = false; // some came too fast: what there is has to be asked for
    this.added = 0; // since the view took them
    this.queued = false;
    this.stopped = false;
    this.watchers = new Set();
    this.again = 0;
  }

  at(i) {
    return this.list[this.list.length - 1 - i];
  }

  // slot is the element that the i-th row is drawn in, where n are in view: what goes out of view leaves its element to what comes.
  slot(i, n) {
    const room = 32 * Math.ceil(Math.max(n, 64) / 32);
    return (((this.base + this.list.length - 1 - i) % room) + room) % room;
  }

  get length() {
    return this.list.length;
  }

  // onChange calls fn when there is something to draw, at most once a frame. It returns its undo.
  onChange(fn) {
    this.watchers.add(fn);
    return () => this.watchers.delete(fn);
  }

  draw() {
    if (this.queued || this.stopped) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      if (!this.stopped) this.watchers.forEach((fn) => fn());
    });
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.again);
  }

  // first loads the newest rows, with the counts of all. It is called again when a stream was interrupted, or left something out.
  async first() {
    const p = new URLSearchParams(this.params), most = this.loaded ? 1000 : page;
    p.set("limit", most);
    const out = await get("connections?" + p);
    // numbers begin anew with each refd
    const another = (r) => this.byID.has(r.id) && this.byID.get(r.id).started !== r.started;
    if (this.loaded && (out.rows.some(another) || (!out.rows.length && this.list.some((r) => typeof r.id === "number")))) {
      [this.list, this.counts, this.total, this.past, this.starts] = [[], {}, 0, "", undefined];
      this.byID.clear();
    }
    // the stream may have told of later ones meanwhile, which are not in the answer: numbers are given in order
    const newest = out.rows.length ? out.rows[0].id : 0;
    const counts = { ...out.byVerdict };
    let total = out.total;
    for (let i = this.list.length - 1; i >= 0 && this.list[i].id > newest; i--) {
      counts[this.list[i].verdict] = (counts[this.list[i].verdict] || 0) + 1;
      total++;
    }
    // memory forgets the oldest
    if (total >= this.total) [this.counts, this.total] = [counts, total];
    this.merge(out.rows.reverse());
    if (!this.loaded) this.end = out.rows.length < most; // of what memory has
    this.loaded = true;
    this.draw();
  }

  // merge puts rows, the oldest first, where they belong. Those of the history have no numbers, and are older than all others.
  merge(rows) {
    const fresh = rows.filter((r) => !this.byID.has(r.id));
    for (const r of fresh) this.byID.set(r.id, r);
    const order = (r) => (typeof r.id === "number" ? r.id : 0);
    const first = fresh.length ? order(fresh[0]) : 0;
    let at = this.list.length;
    while (at > 0 && order(this.list[at - 1]) > first) at--;
    const later = this.list.splice(at).concat(fresh);
    this.list = this.list.concat(later.sort((a, b) => order(a) - order(b)));
  }

  // gaps is how many are counted and not in the list, though later ones are.
  gaps() {
    return this.end && this.skipped ? Math.max(0, this.total - this.list.length) : 0;
  }

  // older loads the page before the oldest row: from memory, and when that has no more, from the history on disk.
  async older() {
    if (this.loading || this.past === "end" || this.list.length >= most) return;
    this.loading = true;
    try {
      const p = new URLSearchParams(this.params);
      p.set("limit", 1000);
      // rows that started at the same instant may be on both pages: they are known already
      if (this.list.length) p.set("until", new Date(new Date(this.list[0].started).getTime() + 1).toISOString());
      const from = this.end ? "history?" : "connections?";
      const rows = (await get(from + p)).rows.reverse();
      if (this.end) {
        this.starts ??= new Set(this.list.map(startOf));
        // numbers begin anew with each refd
        for (const r of rows) r.id = "h" + startOf(r);
      }
      const fresh = rows.filter((r) => !this.byID.has(r.id) && !(this.end && this.starts.has(startOf(r))));
      for (const r of fresh) this.byID.set(r.id, r);
      this.list = fresh.concat(this.list);
      this.base -= fresh.length;
      if (!fresh.length && this.end) this.past = "end";
      if (!fresh.length) this.end = true;
      this.draw();
    } catch (e) {
      if (e.status !== 422) throw e;
      this.past = "end"; // there is no history
    } finally {
      this.loading = false;
    }
  }

  // add takes a batch of the stream.
  add(batch) {
    if (batch.skipped && !this.again) {
      this.skipped = true;
      this.again = setTimeout(() => {
        this.again = 0;
        this.first().catch(() => {});
      }, 1000);
    }
    for (const r of batch.rows) {
      const old = this.byID.get(r.id);
      if (old) {
        if (old.verdict !== r.verdict) this.count(old.verdict, -1), this.count(r.verdict, 1);
        Object.assign(old, r);
        continue;
      }
      this.byID.set(r.id, r);
      this.list.push(r);
      this.added++;
      this.total++;
      this.count(r.verdict, 1);
    }
    if (this.list.length > most) {
      const old = this.list.splice(0, this.list.length - most + 5000);
      for (const r of old) this.byID.delete(r.id);
      this.base += old.length;
    }
    this.draw();
  }

  count(verdict, n) {
    this.counts[verdict] = (this.counts[verdict] || 0) + n;
  }

  // refresh asks for the figures of rows that are on the screen.
  async refresh(rows) {
    const ids = rows.filter((r) => r && !r.ended && typeof r.id === "number").map((r) => r.id);
    if (!ids.length) return;
    const now = await post("connections/lookup", { ids });
    this.add({ rows: now, skipped: 0 });
  }

  // sums counts what got somewhere, what did not, and what was split.
  sums() {
    const s = { allowed: 0, refused: 0, split: 0, other: 0 };
    for (const [name, n] of Object.entries(this.counts)) {
      const v = verdictOf(name);
      if (v.allows) s.allowed += n;
      else if (v.cls === "undecided") s.other += n;
      else s.refused += n;
      if (v.cls === "split") s.split += n;
    }
    return s;
  }
}
