// Everything about one connection, and the rules that can be made of it.

import { html, useEffect, useRef, useState } from "/ui/vendor/preact-htm.js";
import { Badge, bytes, Chart, dateTime, duration, splitAddr, Trouble, verdictOf } from "/ui/ui.js";
import { get, post } from "/ui/api.js";
import { find, linkOf, nameOf, save, uniqueID } from "/ui/policy.js";

export function Panel({ id, close }) {
  const [c, set] = useState(null);
  const [error, setError] = useState(null);
  const [history, setHistory] = useState([[], [], []]);
  const box = useRef(null);
  useEffect(() => {
    let live = true, timer = 0;
    const load = async () => {
      try {
        const now = await load1(id);
        if (!live) return;
        set(now);
        setError(null);
        setHistory(([t, r, s]) => [[...t, Date.now() / 1000].slice(-300), [...r, now.receivedBytes].slice(-300), [...s, now.sentBytes].slice(-300)]);
        if (!now.ended && id[0] !== "h") timer = setTimeout(load, document.hidden ? 5000 : 1000);
      } catch (e) {
        if (live) setError(e);
      }
    };
    load();
    box.current.focus();
    return () => {
      live = false;
      clearTimeout(timer);
    };
  }, [id]);
  const onKey = (e) => e.key === "Escape" && close();
  return html`<aside class="panel" aria-label="Connection" tabindex="-1" ref=${box} onKeyDown=${onKey}>
    <header><h2>${c ? c.domain || splitAddr(c.tuple.remote).host : "Connection"}</h2><button type="button" class="quiet" onClick=${close} aria-label="Close">✕</button></header>
    <${Trouble} error=${error} />
    ${c && html`<${Details} c=${c} history=${history} />`}
  </aside>`;
}

// load1 gets one connection, of memory by its number, of the history by its start.
async function load1(id) {
  if (id[0] !== "h") return get("connections/" + id);
  const [since, local] = id.slice(1).split("~");
  const page = await post("history/query", { since, until: new Date(new Date(since).getTime() + 2).toISOString(), limit: 100 });
  const one = page.connections?.find((c) => c.tuple.local === local);
  if (!one) throw new Error("The history has it no more.");
  return one;
}

const dl = (rows) => html`<dl>${rows.filter((r) => r && r[1] !== undefined && r[1] !== "" && r[1] !== null).map(([k, v]) => html`<div><dt>${k}</dt><dd>${v}</dd></div>`)}</dl>`;

function Details({ c, history }) {
  const p = c.process, d = c.decision, ended = c.ended;
  const seconds = (new Date(ended || Date.now()) - new Date(c.started)) / 1000;
  const established = !ended && verdictOf(d.verdict).allows, q = c.query;
  return html`
    <section><${Badge} verdict=${d.verdict} enforced=${c.enforced} /> <span class="muted">${q ? (q.answered ? "answered" : ended ? "not answered" : "waiting") : ended ? "ended" : established ? "established" : "live"}</span>
      <p class="reason">${d.reason.text || "no reason yet"}</p>
      ${dl([["Rule", d.reason.rule && html`<a href=${"#/rules/" + encodeURIComponent(d.reason.rule)}>${d.reason.rule}</a>`], ["Decided by", d.reason.by], ["Code", d.reason.code && html`<code>${d.reason.code}</code>`], ["Holds for", d.scope]])}
      <${MakeRule} c=${c} />
    </section>
    ${c.splitTun && html`<section class="split-details"><h3>Split tunnel</h3>${dl([["Interface", c.splitTun.interface], ["Source address", c.splitTun.source], ["Engine", c.splitTun.engine]])}</section>`}
    ${c.tunnel && html`<section><h3>Tunnel</h3>${dl([["Provider", c.tunnel.provider], ["Detail", c.tunnel.detail]])}</section>`}
    <section><h3>App</h3>${p ? dl([["Name", p.path ? html`<a href=${linkOf(p)}>${nameOf(p)}</a>` : nameOf(p)], ["Path", p.path && html`<code>${p.path}</code>`], ["Script", p.script && html`<code>${p.script}</code>`], ["Command line", p.args?.length > 1 && html`<code>${p.args.join(" ")}</code>`], ["Process", p.pid], ["User", p.user || p.uid], ["Parent", p.parent && nameOf(p.parent)], ["Control group", p.cgroup && html`<code>${p.cgroup}</code>`]]) : html`<p class="muted">The program is not known.</p>`}</section>
    <section><h3>Destination</h3>${dl([["Domain", c.domain], ["Aliases", c.cnames?.length && c.cnames.join(" → ")], [q ? "Server" : "Address", html`<code>${c.tuple.remote}</code>`], ["From", html`<code>${c.tuple.local}</code>`], ["Protocol", c.tuple.protocol + (c.direction === "in" ? ", inbound" : ", outbound")], ["Scope", c.scope]])}
      ${!c.domain && !q && html`<p class="muted">No DNS lookup of this address was seen.</p>`}</section>
    ${q && html`<section><h3>DNS query</h3>${dl([["Type", q.type], ["Answer", q.rcode], ["Addresses", q.addresses?.join(", ")], ["Answered by", [q.source, q.upstream].filter(Boolean).join(", ")], ["Problem", q.error]])}</section>`}
    <section><h3>${q ? "Time" : "Traffic"}</h3>${dl([!q && ["Received", bytes(c.receivedBytes)], !q && ["Sent", bytes(c.sentBytes)], ["Started", dateTime(c.started)], ["Ended", ended && dateTime(ended)], ["Lasted", duration(seconds)]])}
      ${!q && history[0].length > 2 && html`<${Chart} data=${history} height=${110} format=${(v) => bytes(v)} label="Bytes over time" series=${[{ label: "received", colour: "--received", fill: "--received-fill" }, { label: "sent", colour: "--sent" }]} />`}</section>`;
}

// MakeRule writes a rule about the app and destination of a connection, in front of the others of its app.
function MakeRule({ c }) {
  const refuses = verdictOf(c.decision.verdict).allows;
  const host = splitAddr(c.tuple.remote).host;
  const [what, setWhat] = useState(c.domain ? "domain" : "address");
  const [state, set] = useState({});
  if (!c.process?.path && !c.process?.script) return null;
  const action = refuses ? "block" : "allow";
  const go = async () => {
    set({ busy: true });
    try {
      const app = (await find(c.process)).profile;
      const remote = { domain: [c.domain], address: [host] }[what];
      const rule = { id: await uniqueID(`${app.id}-${action}-${what === "domain" ? c.domain : what === "address" ? host : "all"}`), action, ...(remote && { remote }), ...(c.direction === "in" && { direction: "in" }) };
      const out = await save(app.id, { ...app, rules: [rule, ...(app.rules || [])] });
      set({ done: `${action === "block" ? "Blocked" : "Allowed"}: rule ${rule.id}. ${out.changed} running connection${out.changed === 1 ? "" : "s"} changed.` });
    } catch (error) {
      set({ error });
    }
  };
  return html`<div class="make-rule writes"><label class="field"><span class="sr">What the rule is about</span><select value=${what} onChange=${(e) => setWhat(e.target.value)}>
      ${c.domain && html`<option value="domain">${c.domain}</option>`}${!c.query && html`<option value="address">${host}</option>`}<option value="all">everything</option></select></label>
    <button type="button" class=${refuses ? "danger" : "primary"} disabled=${state.busy || state.done} onClick=${go}>${refuses ? "Block" : "Allow"} for ${nameOf(c.process)}</button>
    ${state.done && html`<p role="status" class="done">${state.done}</p>`}<${Trouble} error=${state.error} /></div>`;
}
