// Apps: a list, and a page for each with default action, rules and split tunnel.

import { html, useEffect, useRef, useState } from "/ui/vendor/preact-htm.js";
import { bytes, Field, Select, Switch, Trouble, useAsync } from "/ui/ui.js";
import { call, get } from "/ui/api.js";
import { clean, find, linkOf, list, readOnly, remove, save, text, uniqueID } from "/ui/policy.js";

export function Apps() {
  const { value, error } = useAsync(() => get("apps"), []);
  const [search, setSearch] = useState("");
  const apps = (value || []).filter((a) => (a.name + (a.path || "")).toLowerCase().includes(search.toLowerCase()));
  return html`<section class="page"><header class="page-head"><h1>Apps</h1><${Field} label="Search apps" hide type="search" placeholder="Search apps" value=${search} onInput=${setSearch} /></header>
    <${Trouble} error=${error} />
    <div class="scroll-x" role="region" aria-label="Apps" tabindex="0"><table class="plain"><thead><tr><th>App</th><th>Rules</th><th>Split tunnel</th><th class="num">Connections</th><th class="num">Refused</th><th class="num">Split</th><th class="num">Traffic</th></tr></thead><tbody>
      ${apps.map((a) => html`<tr key=${a.id || a.path}><td><a href=${a.id ? "#/apps/" + encodeURIComponent(a.id) : linkOf(a.process)}>${a.name}</a><small class="block muted">${a.path}</small></td>
        <td>${a.profile ? (a.profile.rules || []).length || "default only" : html`<span class="muted">none</span>`}</td>
        <td>${a.profile?.split?.use === true ? html`<span class="badge v-split"><i aria-hidden="true"></i>on</span>` : a.profile?.split?.use === false ? "off" : html`<span class="muted">as global</span>`}</td>
        <td class="num">${a.recent.toLocaleString()}${a.live ? html` <small class="muted">(${a.live} live)</small>` : ""}</td><td class="num">${a.refused.toLocaleString()}</td><td class="num">${a.split.toLocaleString()}</td><td class="num">${bytes(a.receivedBytes + a.sentBytes)}</td></tr>`)}
    </tbody></table></div>
    ${value && !apps.length && html`<p class="empty">No app${search ? " matches" : " has had a connection yet"}.</p>`}
  </section>`;
}

const actions = [["", "As global"], ["allow", "Allow"], ["block", "Block"], ["ask", "Ask"]];

// App is the page of one app, by the id of its profile or by a program.
export function App({ id, program }) {
  const { value, error } = useAsync(async () => (program ? find(program) : (await get("apps")).find((a) => a.id === id) || {}), [id]);
  const [made, setMade] = useState(null);
  if (error) return html`<section class="page"><${Trouble} error=${error} /></section>`;
  if (!value) return html`<section class="page"><p class="muted">Loading…</p></section>`;
  const app = made || (program ? { id: value.known ? value.profile.id : "", path: program.path, profile: value.profile } : value);
  if (!app.profile) return html`<section class="page"><h1>${id}</h1><p class="empty">There is no such app.</p></section>`;
  return html`<${Editor} key=${app.profile.id} app=${app} saved=${(profile) => setMade({ ...app, id: profile.id, profile })} />`;
}

function Editor({ app, saved }) {
  const [p, set] = useState(app.profile);
  const [state, setState] = useState({});
  const ifaces = useAsync(() => get("interfaces"), []);
  const status = useAsync(() => get("status"), []);
  const dirty = JSON.stringify(p) !== JSON.stringify(app.profile) || !app.id;
  const change = (part) => set((old) => clean({ ...old, ...part }));
  const split = p.split || {};
  // what is typed is checked by refd, a little later
  useEffect(() => {
    if (!dirty) return setState((s) => ({ done: s.done }));
    const t = setTimeout(() => save(app.id || p.id, p, true).then((out) => setState({ notes: out.notes }), (error) => setState({ error })), 400);
    return () => clearTimeout(t);
  }, [p]);
  const store = async (next) => {
    try {
      const out = await save(app.id || next.id, next);
      setState({ done: `Saved. ${out.changed} running connection${out.changed === 1 ? "" : "s"} changed.`, notes: out.notes });
      saved(next);
    } catch (error) {
      setState({ error });
    }
  };
  const at = (part) => {
    const hit = state.error?.problems?.find((x) => x.key?.replace(/^apps\[\d+\]\.?/, "").startsWith(part));
    return hit && hit.text + (hit.hint ? ` (${hit.hint})` : "");
  };
  const setSplit = (part) => change({ split: clean({ ...split, ...part }) });
  return html`<section class="page"><header class="page-head"><h1><a href="#/apps" class="back">Apps</a> ${p.id}</h1>
      ${app.id && html`<button type="button" class="quiet danger-text writes" onClick=${() => confirm(`Remove all rules of ${app.id}?`) && remove(app.id).then(() => (location.hash = "#/apps"), (error) => setState({ error }))}>Remove profile</button>`}</header>
    <p class="muted">${text(p.match?.map((m) => m.path || m.script || m.args || m.cgroup || (m.uids || []).join(" "))) || app.path}</p>
    <fieldset class="bare" disabled=${readOnly()}><div class="cards">
      <section class="card"><h2>Default action</h2><p class="muted">What happens to connections that no rule is about.</p><div class="pair">
        <${Select} label="Outgoing" value=${p.default?.out || ""} options=${actions} onChange=${(v) => change({ default: clean({ ...p.default, out: v }) })} />
        <${Select} label="Incoming" value=${p.default?.in || ""} options=${actions} onChange=${(v) => change({ default: clean({ ...p.default, in: v }) })} /></div></section>
      <section class="card"><h2>Split tunnel</h2>
        <${Switch} label="Leave by an interface of its own" checked=${split.use === true} hint=${split.use === undefined ? "as global now" : ""} onChange=${(on) => setSplit({ use: on })} />
        <${InterfacePicker} value=${split.interface} interfaces=${ifaces.value} selections=${status.value?.splitTunnel?.selections} error=${at("split.interface")} onChange=${(v) => setSplit({ interface: v })} />
        <${Policy} title="Only these" entries=${split.include} onChange=${(v) => setSplit({ include: v })} error=${at("split.include")} />
        <${Policy} title="Never these" entries=${split.exclude} onChange=${(v) => setSplit({ exclude: v })} error=${at("split.exclude")} />
      </section>
    </div>
    <section class="card"><h2>Rules</h2><p class="muted">The first one that matches decides.</p><${Rules} rules=${p.rules || []} app=${p.id} onChange=${(rules) => change({ rules })} problem=${(i) => at(`rules[${i}]`)} /></section>
    <div class="save" role="status"><button type="button" class="primary" disabled=${!dirty || !!state.error} onClick=${() => store(p)}>Save</button>
      ${dirty && html`<button type="button" class="quiet" onClick=${() => set(app.profile)}>Undo</button>`}<span class="done">${state.done}</span>
      <${Trouble} error=${state.error} />${state.notes?.map((n) => html`<p class="note"><code>${n.key}</code> ${n.text} <span class="hint">${n.hint}</span></p>`)}</div></fieldset>
  </section>`;
}

// InterfacePicker chooses by name, and shows how each interface is now.
export function InterfacePicker({ value, interfaces, selections, error, onChange }) {
  const options = [["", "Best physical default"], ...(interfaces || []).filter((i) => i.name !== "lo").map((i) => [i.name, `${i.name} · ${i.up ? "up" : "down"} · ${i.addresses[0] || "no address"}`])];
  if (value && !options.some(([v]) => v === value)) options.push([value, value]);
  const now = (selections || []).filter((s) => s.selector === (value || ""));
  return html`<div class="picker"><${Select} label="Interface" value=${value || ""} options=${options} onChange=${(v) => onChange(v || undefined)} />
    ${error && html`<small class="bad" role="alert">${error}</small>`}
    ${now.map((s) => html`<small class=${"block " + (s.problem ? "bad" : "good")}>${s.family}: ${s.problem || `${s.interface}, from ${s.source}`}</small>`)}</div>`;
}

// Policy edits a list of conditions of the split tunnel.
export function Policy({ title, entries, onChange, error }) {
  const all = entries || [];
  const set = (i, part) => onChange(all.map((e, k) => (k === i ? clean({ ...e, ...part }) : e)));
  return html`<fieldset class="policy"><legend>${title}</legend>
    ${all.map((e, i) => html`<div class="line" key=${i}><${Field} label="Domains, addresses, networks" hide placeholder="example.org, 192.0.2.0/24" value=${text(e.remote)} onCommit=${(v) => set(i, { remote: list(v) })} /><${Field} label="Ports" hide placeholder="ports" value=${e.remotePorts || ""} onCommit=${(v) => set(i, { remotePorts: v.trim() })} /><button type="button" class="quiet" aria-label="Remove this entry" onClick=${() => onChange(all.filter((_, k) => k !== i))}>✕</button></div>`)}
    <button type="button" class="quiet" onClick=${() => onChange([...all, { remote: [] }])}>Add</button>${error && html`<small class="bad" role="alert">${error}</small>`}</fieldset>`;
}

const ruleActions = [["allow", "Allow"], ["block", "Block"], ["drop", "Drop"], ["ask", "Ask"]];
const directions = [["", "Both ways"], ["out", "Outgoing"], ["in", "Incoming"]];

// Rules edits a list of rules.
export function Rules({ rules, app, onChange, problem, focus }) {
  const set = (i, part) => onChange(rules.map((r, k) => (k === i ? clean({ ...r, ...part }) : r)));
  const move = (i, by) => {
    const next = [...rules];
    [next[i], next[i + by]] = [next[i + by], next[i]];
    onChange(next);
  };
  const add = async () => onChange([...rules, { id: await uniqueID(`${app}-rule-${rules.length + 1}`), action: "block" }]);
  const box = useRef(null);
  useEffect(() => {
    if (focus) box.current?.querySelector(".focus")?.scrollIntoView({ block: "center" });
  }, [focus]);
  return html`<div class="rule-list" ref=${box}>
    ${rules.map((r, i) => html`<div class=${"rule " + (focus === r.id ? "focus" : "")} key=${i}><span class="grip"><button type="button" class="quiet" aria-label=${`Move ${r.id} up`} disabled=${i === 0} onClick=${() => move(i, -1)}>↑</button><button type="button" class="quiet" aria-label=${`Move ${r.id} down`} disabled=${i === rules.length - 1} onClick=${() => move(i, 1)}>↓</button></span>
      <${Select} label="Action" value=${r.action} options=${ruleActions} onChange=${(v) => set(i, { action: v })} />
      <${Select} label="Direction" value=${r.direction || ""} options=${directions} onChange=${(v) => set(i, { direction: v })} />
      <${Field} label="Destination" placeholder="anything" value=${text(r.remote)} onCommit=${(v) => set(i, { remote: list(v) })} />
      <${Field} label="Ports" placeholder="any" value=${r.remotePorts || ""} onCommit=${(v) => set(i, { remotePorts: v.trim() })} />
      <${Field} label="Protocols" placeholder="any" value=${text(r.protocols)} onCommit=${(v) => set(i, { protocols: list(v) })} />
      <${Field} label="Comment" value=${r.comment || ""} onCommit=${(v) => set(i, { comment: v.trim() })} />
      <button type="button" class="quiet" aria-label=${`Remove ${r.id}`} onClick=${() => onChange(rules.filter((_, k) => k !== i))}>✕</button>
      <small class="id muted">${r.id}</small>${problem?.(i) && html`<small class="bad" role="alert">${problem(i)}</small>`}</div>`)}
    ${!rules.length && html`<p class="muted">No rules.</p>`}
    <button type="button" onClick=${add}>Add rule</button></div>`;
}

// RuleLink leads from the id of a rule to where it is.
export function RuleLink({ id }) {
  useEffect(() => {
    get("apps").then((apps) => {
      const app = apps.find((a) => a.profile?.rules?.some((r) => r.id === id));
      location.replace(app ? "#/apps/" + encodeURIComponent(app.id) : "#/settings/rules?rule=" + encodeURIComponent(id));
    }, () => {});
  }, [id]);
  return html`<section class="page"><p class="muted">Looking for rule ${id}…</p></section>`;
}

export const putPolicy = (part) => call("PUT", "policy", part);
