// Global settings: the split tunnel, rules for all apps, and every key of the configuration file.

import { html, useState } from "/ui/vendor/preact-htm.js";
import { Field, Select, Switch, Trouble, useAsync } from "/ui/ui.js";
import { get, post } from "/ui/api.js";
import { InterfacePicker, Policy, putPolicy, Rules } from "/ui/apps.js";
import { clean, list, readOnly, text } from "/ui/policy.js";

const names = { split_tunnel: "Split tunnel", rules: "Rules for all apps", general: "General", dns: "DNS", ask: "Questions", connections: "Connections in memory", history: "History", ivpn: "IVPN", api: "This page and the API", handler: "External handlers", log: "Log", netfilter: "Packet filter" };

export function Settings({ section, rule }) {
  const { value, error, reload } = useAsync(() => get("settings"), []);
  const [expert, setExpert] = useState(localStorage.getItem("weir-level") === "expert");
  const level = (on) => {
    localStorage.setItem("weir-level", on ? "expert" : "user");
    setExpert(on);
  };
  const shown = (value?.settings || []).filter((s) => expert || s.level === "user");
  const sections = ["split_tunnel", "rules", ...Object.keys(names).filter((n) => n !== "split_tunnel" && n !== "rules" && shown.some((s) => s.section === n)), ...[...new Set(shown.map((s) => s.section))].filter((n) => !names[n])];
  return html`<section class="page"><header class="page-head"><h1>Settings</h1><${Switch} label="Expert settings" checked=${expert} onChange=${level} /></header>
    <${Trouble} error=${error} />${value && !value.writable && html`<p class="note">${value.why}</p>`}
    <div class="with-index"><nav class="index" aria-label="Sections">${sections.map((n) => html`<a href=${"#/settings/" + n} aria-current=${section === n ? "true" : undefined}>${names[n] || n}</a>`)}</nav>
    <fieldset class="index-body" disabled=${readOnly()}>${value && sections.filter((n) => !section || n === section).map((n) => html`<section class="card" key=${n} id=${"section-" + n}><h2>${names[n] || n}</h2>
      ${n === "split_tunnel" ? html`<${SplitTunnel} setting=${value.settings.find((s) => s.key === "split_tunnel.enabled")} reload=${reload} />` : n === "rules" && html`<${Global} rule=${rule} />`}
      ${shown.filter((s) => s.section === n && s.key !== "split_tunnel.enabled").map((s) => html`<${Setting} key=${s.key} s=${s} reload=${reload} />`)}</section>`)}</fieldset></div>
  </section>`;
}

function useChange(reload) {
  const [state, set] = useState({});
  const change = async (key, value) => {
    set({ busy: true });
    try {
      const out = await post("settings", { set: { [key]: value } });
      set({ done: out.needRestart?.length ? "Saved; takes effect at the next start." : "Saved." });
      reload();
    } catch (error) {
      set({ error });
    }
  };
  return [state, change];
}

function Setting({ s, reload }) {
  const [state, change] = useChange(reload);
  const changed = JSON.stringify(s.value) !== JSON.stringify(s.default);
  const problem = state.error && (state.error.problems?.map((p) => p.text + (p.hint ? ` (${p.hint})` : "")).join("; ") || state.error.message);
  const control = () => {
    if (s.fileOnly) return html`<${Field} label=${s.title} value=${s.value} disabled=${true} />`;
    switch (s.kind) {
      case "bool": return html`<${Switch} label=${s.title} checked=${s.value} onChange=${(v) => change(s.key, v)} />`;
      case "choice": return html`<${Select} label=${s.title} value=${s.value} options=${s.choices.map((c) => [c, c])} onChange=${(v) => change(s.key, v)} />`;
      case "list": return html`<${Field} label=${s.title} value=${text(s.value)} placeholder="none" onCommit=${(v) => change(s.key, list(v))} error=${problem} />`;
      case "number": return html`<${Field} label=${s.title} value=${String(s.value)} onCommit=${(v) => change(s.key, /^\d+$/.test(v.trim()) ? Number(v) : v)} error=${problem} />`;
      default: return html`<${Field} label=${s.title} value=${s.value} onCommit=${(v) => change(s.key, v.trim())} error=${problem} />`;
    }
  };
  return html`<div class="setting"><div>${control()}${s.help && html`<p class="muted">${s.help}</p>`}${problem && (s.kind === "bool" || s.kind === "choice") && html`<small class="bad" role="alert">${problem}</small>`}</div>
    <div class="side"><code>${s.key}</code>${s.fileOnly ? html`<small class="muted">only in the file</small>` : s.restart && html`<small class="muted">at the next start</small>`}${changed && !s.fileOnly && html`<button type="button" class="quiet" onClick=${() => change(s.key, null)}>Reset to ${Array.isArray(s.default) ? text(s.default) || "none" : String(s.default) || "none"}</button>`}${state.done && html`<small class="good" role="status">${state.done}</small>`}</div></div>`;
}

// SplitTunnel has one switch, and what holds for all apps.
function SplitTunnel({ setting, reload }) {
  const [state, change] = useChange(reload);
  const policy = useAsync(() => get("policy"), []);
  const ifaces = useAsync(() => get("interfaces"), []);
  const status = useAsync(() => get("status"), [setting.value]);
  const [error, setError] = useState(null);
  const split = policy.value?.split || {};
  const put = async (part) => {
    try {
      await putPolicy({ split: clean({ ...split, ...part }) });
      setError(null);
      policy.reload();
      status.reload();
    } catch (e) {
      setError(e);
    }
  };
  return html`<${Switch} label=${setting.title} hint=${setting.help} checked=${setting.value} onChange=${(v) => change(setting.key, v)} /><${Trouble} error=${state.error} />
    <${Switch} label="Split all apps" hint="Off: only the apps that are set to it." checked=${split.use === true} disabled=${!setting.value} onChange=${(v) => put({ use: v || undefined })} />
    <${InterfacePicker} value=${split.interface} interfaces=${ifaces.value} selections=${status.value?.splitTunnel?.selections} onChange=${(v) => put({ interface: v })} />
    <${Draft} value=${split} put=${put} /><${Trouble} error=${error} />`;
}

// Draft keeps entries that are still empty to itself.
function Draft({ value, put }) {
  const [draft, set] = useState({});
  const edit = (name) => (entries) => {
    set({ ...draft, [name]: entries });
    if (entries.every((e) => (e.remote || []).length || e.remotePorts)) put({ [name]: entries }).then(() => set({}));
  };
  return html`<${Policy} title="Only these, for all apps" entries=${draft.include || value.include} onChange=${edit("include")} /><${Policy} title="Never these, for all apps" entries=${draft.exclude || value.exclude} onChange=${edit("exclude")} />`;
}

const actions = [["", "Built-in"], ["allow", "Allow"], ["block", "Block"], ["ask", "Ask"]];

// Global has the rules and default actions of all apps.
function Global({ rule }) {
  const policy = useAsync(() => get("policy"), []);
  const [rules, setRules] = useState(null);
  const [state, set] = useState({});
  if (!policy.value) return html`<${Trouble} error=${policy.error} />`;
  const p = policy.value, now = rules || p.global || [];
  const put = async (part, done) => {
    try {
      const out = await putPolicy(part);
      set({ done: `Saved. ${out.changed} running connection${out.changed === 1 ? "" : "s"} changed.` });
      done?.();
      policy.reload();
    } catch (error) {
      set({ error });
    }
  };
  return html`<div class="pair"><${Select} label="Outgoing, without a rule" value=${p.default?.out || ""} options=${actions} onChange=${(v) => put({ default: clean({ ...p.default, out: v }) })} />
      <${Select} label="Incoming, without a rule" value=${p.default?.in || ""} options=${actions} onChange=${(v) => put({ default: clean({ ...p.default, in: v }) })} /></div>
    <${Rules} rules=${now} app="global" focus=${rule} onChange=${setRules} />
    <div class="save" role="status"><button type="button" class="primary" disabled=${!rules} onClick=${() => put({ global: rules }, () => setRules(null))}>Save rules</button>${rules && html`<button type="button" class="quiet" onClick=${() => setRules(null)}>Undo</button>`}<span class="done">${state.done}</span><${Trouble} error=${state.error} /></div>`;
}
