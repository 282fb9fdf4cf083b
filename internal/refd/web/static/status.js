// How refd is: notifications, modules, interop, DNS, interfaces, and what can be done with the daemon itself.

import { html, useEffect, useState } from "/ui/vendor/preact-htm.js";
import { dateTime, duration, Trouble, useAsync } from "/ui/ui.js";
import { get, logout, post } from "/ui/api.js";
import { live } from "/ui/live.js";

export function Notifications({ list, reload }) {
  const [error, setError] = useState(null);
  const act = (path, n, action) => post("notifications/" + path, clean({ module: n.module, id: n.id, action })).then(() => (setError(null), reload()), setError);
  return html`<div class="notices">${list.map((n) => html`<article class=${"notice s-" + n.severity} key=${n.module + n.id}><div><strong>${n.title}</strong> <span class="muted">${n.severity} · ${n.module} · ${dateTime(n.time)}</span><p>${n.message}</p></div>
    <div class="buttons">${(n.actions || []).map((a) => html`<button type="button" onClick=${() => act("act", n, a.id)}>${a.title}</button>`)}<button type="button" class="quiet" onClick=${() => act("dismiss", n)}>Dismiss</button></div></article>`)}
    ${!list.length && html`<p class="muted">Nothing to tell.</p>`}<${Trouble} error=${error} /></div>`;
}

const clean = (o) => Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined));

export function Status({ notices, reloadNotices }) {
  const { value: s, error, reload } = useAsync(() => get("status"), []);
  const ifaces = useAsync(() => get("interfaces"), []);
  useEffect(() => {
    const t = setInterval(() => document.hidden || reload(), 5000);
    const stop = live.changed(reload);
    return () => {
      clearInterval(t);
      stop();
    };
  }, []);
  if (!s) return html`<section class="page"><h1>Status</h1><${Trouble} error=${error} /></section>`;
  return html`<section class="page"><header class="page-head"><h1>Status</h1><span class=${"worst s-" + s.worst}>${s.worst === "fine" ? "everything works" : s.worst}</span></header>
    <${Trouble} error=${error} />
    <section class="card"><h2>Notifications</h2><${Notifications} list=${notices} reload=${() => (reloadNotices(), reload())} /></section>
    <div class="cards">
      <section class="card"><h2>refd</h2><dl>${[["Version", s.version], ["Mode", s.mode], ["Running since", dateTime(s.started)], ["Rules", s.rules], ["Live connections", s.live.toLocaleString()], ["Configuration", html`<code>${s.config || "built-in defaults"}</code>`]].map(([k, v]) => html`<div><dt>${k}</dt><dd>${v}</dd></div>`)}</dl><${Daemon} s=${s} reload=${reload} /></section>
      <section class="card"><h2>Modules</h2><ul class="modules">${s.modules.map((m) => html`<li><span class=${"dot p-" + m.phase} aria-hidden="true"></span>${m.name}<small class="muted">${m.phase}</small>${s.states.filter((x) => x.module === m.name).map((x) => html`<small class=${"block s-" + x.severity}>${x.severity}: ${x.title}</small>`)}</li>`)}</ul></section>
      <section class="card"><h2>Interop</h2>${s.ivpn ? html`<dl><div><dt>IVPN</dt><dd>${s.ivpn.phase || "not found"}</dd></div>${Object.entries(s.ivpn).filter(([k, v]) => k !== "phase" && typeof v !== "object" && v !== "").map(([k, v]) => html`<div><dt>${k}</dt><dd>${String(v)}</dd></div>`)}</dl>` : html`<p class="muted">No other VPN client is looked for.</p>`}</section>
      <section class="card"><h2>DNS</h2><dl>${s.names && html`<div><dt>Addresses with names</dt><dd>${s.names.addresses.toLocaleString()}</dd></div><div><dt>Answers read in packets</dt><dd>${s.names.packetAnswers.toLocaleString()}</dd></div>`}${s.nameserver ? html`<div><dt>Nameserver</dt><dd>${s.nameserver.enabled ? "answers" : "off"}</dd></div>` : html`<div><dt>Nameserver</dt><dd>off: the system's DNS is used</dd></div>`}</dl>${s.nameserver && html`<${Flush} />`}</section>
      ${s.splitTunnel && html`<section class="card"><h2>Split tunnel</h2><dl><div><dt>State</dt><dd>${s.splitTunnel.on ? "on" : "off"}</dd></div><div><dt>Engine</dt><dd>${s.splitTunnel.engine}</dd></div><div><dt>Decisions</dt><dd>${s.splitTunnel.took} split, ${s.splitTunnel.refused} failed</dd></div>${(s.splitTunnel.selections || []).map((x) => html`<div><dt>${x.selector || "default"} (${x.family})</dt><dd class=${x.problem ? "bad" : ""}>${x.problem || `${x.interface} from ${x.source}`}</dd></div>`)}</dl></section>`}
    </div>
    <section class="card"><h2>Interfaces</h2><div class="scroll-x" role="region" aria-label="Interfaces" tabindex="0"><table class="plain"><thead><tr><th>Name</th><th>State</th><th>Kind</th><th>Addresses</th><th>Default</th></tr></thead><tbody>${(ifaces.value || []).map((i) => html`<tr><td>${i.name}</td><td>${i.up ? "up" : html`<span class="muted">down</span>`}</td><td>${i.kind}</td><td>${i.addresses.join(", ")}</td><td>${(i.best || []).length ? "best for " + i.best.join(", ") : i.default4 || i.default6 ? "yes" : ""}</td></tr>`)}</tbody></table></div></section>
  </section>`;
}

// Flush empties the nameserver's cache.
function Flush() {
  const [state, set] = useState({});
  const go = () => post("dns/flush", {}).then(() => set({ done: true }), (error) => set({ error }));
  return html`<button type="button" class="writes" onClick=${go}>Empty the cache</button>${state.done && html` <small class="good" role="status">Empty.</small>`}<${Trouble} error=${state.error} />`;
}

// Daemon pauses, resumes, restarts and stops.
function Daemon({ s, reload }) {
  const [error, setError] = useState(null);
  const act = (path, body, question) => () => (!question || confirm(question)) && post(path, body).then(() => (setError(null), reload()), setError);
  const report = () => get("debug").then(keep, setError);
  const keep = (found) => {
    const blob = new Blob([JSON.stringify(found, null, 2)], { type: "application/json" });
    const a = document.createElement("a");
    a.href = URL.createObjectURL(blob);
    a.download = "refd-report.json";
    a.click();
    URL.revokeObjectURL(a.href);
  };
  const left = s.pausedUntil && (new Date(s.pausedUntil) - Date.now()) / 1000;
  return html`<div class="buttons"><span class="writes buttons">${left > 0 ? html`<span>Paused for ${duration(left)} more.</span><button type="button" class="primary" onClick=${act("resume")}>Resume</button>` : html`<button type="button" onClick=${act("pause", { seconds: 600 }, "Pause for 10 minutes? Everything passes meanwhile.")}>Pause 10 min</button>`}
    <button type="button" onClick=${act("reload")}>Reload configuration</button><button type="button" onClick=${report}>Debug report</button>
    <button type="button" onClick=${act("restart", undefined, "Restart refd?")}>Restart</button><button type="button" class="danger-text" onClick=${act("shutdown", undefined, "Stop refd?")}>Stop</button></span><button type="button" class="quiet" onClick=${logout}>Log out</button></div><${Trouble} error=${error} />`;
}
