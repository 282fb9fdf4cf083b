// The live list of connections, with search, filters, counts and the traffic chart.

import { html, useEffect, useMemo, useRef, useState, useCallback } from "/ui/vendor/preact-htm.js";
import { Badge, bytes, Chart, clock, Field, Select, splitAddr, Trouble, verdicts, where } from "/ui/ui.js";
import { Rows } from "/ui/rows.js";
import { Panel } from "/ui/panel.js";
import { live } from "/ui/live.js";
import { get } from "/ui/api.js";

const allowed = Object.keys(verdicts).filter((v) => verdicts[v].allows);
const refused = ["Block", "Drop", "Failed"];
const choices = [
  ["", "All verdicts"], ["allowed", "Allowed, all kinds"], ["refused", "Refused, all kinds"],
  ...["Accept", "Block", "Drop", "RerouteToSplitTun", "RerouteToTunnel", "RerouteToNameserver", "Failed", "Undecided"].map((v) => [v, verdicts[v].label]),
];
const kinds = [["", "Connections"], ["own", "Connections, this page's too"], ["dns", "DNS queries"]];
const times = [["", "Any time"], ["300", "Last 5 minutes"], ["3600", "Last hour"], ["86400", "Last day"], ["604800", "Last week"]];

// paramsOf returns the filter of the page's address as parameters of the API.
export function paramsOf(filter) {
  const p = new URLSearchParams();
  for (const k of ["text", "app", "domain", "remote", "port", "protocol", "rule"]) if (filter.get(k)) p.set(k, filter.get(k));
  const v = filter.get("verdict") || "";
  for (const one of v === "allowed" ? allowed : v === "refused" ? refused : v ? [v] : []) p.append("verdict", one);
  if (filter.get("kind") === "dns") p.set("queries", "true");
  // nobody wants to watch how the page asks
  if (!filter.get("kind")) p.set("without", "own-service");
  if (filter.get("last")) p.set("since", new Date(Date.now() - 1000 * filter.get("last")).toISOString());
  return p;
}

export function Connections({ filter, setFilter, open }) {
  const text = filter.toString();
  const [error, setError] = useState(null);
  const rows = useMemo(() => new Rows(paramsOf(filter)), [text]);
  useEffect(() => {
    setError(null);
    const stop = live.connections("?" + rows.params + "&only=connections", (batch) => rows.add(batch), () => rows.first().then(() => setError(null), setError));
    return () => {
      stop();
      rows.stop();
    };
  }, [rows]);
  const set = useCallback((name, value) => {
    const f = new URLSearchParams(filter);
    value ? f.set(name, value) : f.delete(name);
    setFilter(f);
  }, [text]);
  return html`<div class="connections ${open ? "with-panel" : ""}">
    <section class="list-side" aria-label="Connections">
      <h1 class="sr">Connections</h1>
      <div class="summary">
        <${Counts} rows=${rows} verdict=${filter.get("verdict") || ""} set=${(v) => set("verdict", v)} />
        <${Traffic} />
      </div>
      <${Filters} filter=${filter} set=${set} clear=${() => setFilter(new URLSearchParams())} />
      <${Trouble} error=${error} />
      <${List} rows=${rows} open=${open} filter=${filter} key=${text} />
    </section>
    ${open && html`<${Panel} id=${open} key=${open} close=${() => (location.hash = "#/connections?" + text)} />`}
  </div>`;
}

// useRows draws a component again when rows change, at most once a frame; nothing else of the page is.
function useRows(rows) {
  const [, draw] = useState(0);
  useEffect(() => rows.onChange(() => draw((n) => n + 1)), [rows]);
}

function Counts({ rows, verdict, set }) {
  useRows(rows);
  const sums = rows.sums();
  const one = (name, label, n, cls) => html`<button type="button" class="count v-${cls}" aria-pressed=${verdict === name ? "true" : "false"} onClick=${() => set(verdict === name ? "" : name)}><b>${n.toLocaleString()}</b><span><i aria-hidden="true"></i>${label}</span></button>`;
  return html`<div class="counts" role="group" aria-label="Counts by verdict">
    ${one("allowed", "allowed", sums.allowed, "accept")}${one("refused", "refused", sums.refused, "block")}${one("RerouteToSplitTun", "split tunneled", sums.split, "split")}
  </div>`;
}

// Traffic is the chart of the last minutes.
function Traffic() {
  const [points, set] = useState([]);
  useEffect(() => {
    get("traffic").then((list) => set(list.slice(-150)), () => {});
    return live.traffic((p) => set((old) => [...old.slice(-149), p]));
  }, []);
  const data = useMemo(() => {
    const at = (f) => points.map((p) => (p.seconds ? f(p) / p.seconds : 0));
    return [points.map((p) => new Date(p.time) / 1000), at((p) => p.receivedBytes), at((p) => p.sentBytes)];
  }, [points]);
  const last = points[points.length - 1];
  const rate = (n) => (last?.seconds ? bytes(n / last.seconds) + "/s" : "–");
  return html`<figure class="traffic">
    <figcaption><span class="key received">received <b>${rate(last?.receivedBytes || 0)}</b></span><span class="key sent">sent <b>${rate(last?.sentBytes || 0)}</b></span></figcaption>
    <${Chart} data=${data} height=${96} format=${(v) => bytes(v) + "/s"} label="Traffic of the last minutes, received and sent"
      series=${[{ label: "received", colour: "--received", fill: "--received-fill" }, { label: "sent", colour: "--sent" }]} />
  </figure>`;
}

function Filters({ filter, set, clear }) {
  const [more, setMore] = useState(["kind", "app", "domain", "remote", "port", "protocol", "rule"].some((k) => filter.get(k)));
  const timers = useRef({});
  const search = useRef(null);
  const later = (name) => (value) => {
    clearTimeout(timers.current[name]);
    timers.current[name] = setTimeout(() => set(name, value.trim()), 250);
  };
  useEffect(() => {
    const onKey = (e) => {
      if (e.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
        e.preventDefault();
        search.current.focus();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return html`<form class="filters" role="search" onSubmit=${(e) => e.preventDefault()}>
    <div class="line">
      <${Field} label="Search" hide type="search" placeholder="Search app, domain, address, rule   /" value=${filter.get("text") || ""} onInput=${later("text")} inputRef=${search} />
      <${Select} label="Verdict" hide value=${filter.get("verdict") || ""} options=${choices} onChange=${(v) => set("verdict", v)} />
      <${Select} label="Time" hide value=${filter.get("last") || ""} options=${times} onChange=${(v) => set("last", v)} />
      <button type="button" class="quiet" aria-expanded=${more ? "true" : "false"} onClick=${() => setMore(!more)}>Filters</button>
      ${filter.toString() && html`<button type="button" class="quiet" onClick=${clear}>Clear</button>`}
    </div>
    ${more && html`<div class="line more">
      <${Select} label="Kind" value=${filter.get("kind") || ""} options=${kinds} onChange=${(v) => set("kind", v)} />
      ${[["app", "App", "curl"], ["domain", "Domain", "example.org"], ["remote", "Address or network", "192.0.2.0/24"], ["port", "Port", "443"], ["protocol", "Protocol", "tcp"], ["rule", "Rule", "id"]].map(
        ([k, label, example]) => html`<${Field} key=${k} label=${label} placeholder=${example} value=${filter.get(k) || ""} onInput=${later(k)} />`)}
    </div>`}
  </form>`;
}

const narrow = matchMedia("(max-width: 720px)");

// List draws the rows that are in view. Rows that come while one reads further down do not move what is read.
function List({ rows, open, filter }) {
  const box = useRef(null);
  const [top, setTop] = useState(0);
  const [size, setSize] = useState(600);
  const [cursor, setCursor] = useState(0);
  const [unseen, setUnseen] = useState(0);
  const rowHeight = narrow.matches ? 52 : 30;
  const what = filter.get("kind") === "dns" ? ["DNS query", "DNS queries"] : ["connection", "connections"];
  useRows(rows);
  useEffect(() => {
    const o = new ResizeObserver(() => box.current && setSize(box.current.clientHeight));
    o.observe(box.current);
    return () => o.disconnect();
  }, []);
  // what came since the last drawing
  const added = rows.added;
  rows.added = 0;
  useEffect(() => {
    if (!added || !box.current) return;
    if (box.current.scrollTop > 0) {
      box.current.scrollTop += added * rowHeight;
      setUnseen((n) => n + added);
    }
    if (cursor > 0) setCursor((c) => c + added);
  });
  const n = rows.length;
  const first = Math.max(0, Math.floor(top / rowHeight) - 6);
  const last = Math.min(n, Math.ceil((top + size) / rowHeight) + 6);
  useEffect(() => {
    if (rows.loaded && last >= n - 50) rows.older().catch(() => {});
  }, [last, n]);
  const view = useRef([0, 0]);
  view.current = [first, last];
  useEffect(() => {
    const t = setInterval(() => {
      if (document.hidden) return;
      const list = [];
      for (let i = view.current[0]; i < view.current[1]; i++) list.push(rows.at(i));
      rows.refresh(list).catch(() => {});
    }, 2000);
    return () => clearInterval(t);
  }, [rows]);
  const onScroll = () => {
    const at = box.current.scrollTop;
    if (at === 0) setUnseen(0);
    requestAnimationFrame(() => setTop(at));
  };
  const go = (row) => (location.hash = `#/connections/${encodeURIComponent(row.id)}?${filter}`);
  const onKey = (e) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -n, End: n }[e.key];
    if (step) {
      e.preventDefault();
      const to = Math.max(0, Math.min(n - 1, cursor + step));
      setCursor(to);
      const y = to * rowHeight, b = box.current;
      if (y < b.scrollTop) b.scrollTop = y;
      else if (y + rowHeight > b.scrollTop + b.clientHeight) b.scrollTop = y + rowHeight - b.clientHeight;
    } else if ((e.key === "Enter" || e.key === " ") && rows.at(cursor)) {
      e.preventDefault();
      go(rows.at(cursor));
    }
  };
  const out = [];
  for (let i = first; i < last; i++) {
    const r = rows.at(i);
    out.push(html`<${Row} key=${rows.slot(i, last - first)} r=${r} v=${r.verdict + r.receivedBytes + r.sentBytes + (r.ended || "") + r.domain} y=${i * rowHeight} open=${String(r.id) === open} cursor=${i === cursor} go=${go} />`);
  }
  return html`<div class="table">
    <div class="head" aria-hidden="true"><span>Time</span><span>Verdict</span><span>App</span><span>Destination</span><span>Address</span><span>Why</span><span class="num">Received</span><span class="num">Sent</span></div>
    <div class="rows" ref=${box} role="listbox" tabindex="0" aria-label="Connections, the newest first" aria-activedescendant=${cursor >= first && cursor < last ? "row-" + rows.at(cursor).id : undefined} onScroll=${onScroll} onKeyDown=${onKey}>
      <div class="space" role="presentation" style=${{ height: n * rowHeight + "px" }}>${out}</div>
    </div>
    ${rows.loaded && !n && html`<p class="empty">${filter.toString() ? `No ${what[0]} matches these filters.` : "No connections yet. They appear here as programs open them."}</p>`}
    ${unseen > 0 && html`<button type="button" class="unseen" onClick=${() => (box.current.scrollTop = 0)}>${unseen.toLocaleString()} new</button>`}
    <div class="foot" role="status">${n ? `${(rows.total || n).toLocaleString()} ${what[rows.total === 1 ? 0 : 1]}${rows.gaps() ? `, of which ${rows.gaps().toLocaleString()} came too fast to list` : ""}` : ""}</div>
  </div>`;
}

// answer says what a DNS query was answered.
const answer = (q) => q.error || (q.addresses || []).join(" ") || q.rcode || "";

// Row is drawn again when something of it changed. go stays as good as it was: a list has one filter.
function Row({ r, y, open, cursor, go }) {
  this.shouldComponentUpdate = (next) => ["r", "v", "y", "open", "cursor"].some((k) => next[k] !== this.props[k]);
  const to = splitAddr(r.remote), q = r.query;
  const why = q ? [answer(q), r.reason].filter(Boolean).join(" · ") : r.reason;
  return html`<div class="row v-${verdicts[r.verdict]?.cls || "undecided"} ${open ? "open" : ""} ${cursor ? "cursor" : ""} ${r.ended ? "ended" : ""}" id=${"row-" + r.id} role="option" aria-selected=${open ? "true" : "false"}
    style=${{ transform: `translateY(${y}px)` }} onClick=${() => go(r)}>
    <span class="time">${clock(r.started)}</span>
    <span class="verdict"><${Badge} verdict=${r.verdict} enforced=${r.enforced} /></span>
    <span class="app" title=${r.path}>${r.app || html`<em>unknown</em>`}</span>
    <span class="dest" title=${where(r)}>${r.direction === "in" ? html`<abbr title="inbound">in</abbr> ` : ""}${where(r)}${q ? html` <small>${q.type}</small>` : to.port !== "0" ? html`<small>:${to.port}</small>` : ""}</span>
    <span class="addr">${r.protocol} ${to.host}</span>
    <span class="why" title=${why}>${r.interface ? html`<small class="via">via ${r.interface}</small> ` : ""}${why}</span>
    <span class="num">${q ? "" : bytes(r.receivedBytes)}</span><span class="num">${q ? "" : bytes(r.sentBytes)}</span>
  </div>`;
}
