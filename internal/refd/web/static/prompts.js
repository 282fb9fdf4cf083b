// Questions that rules with the action ask put to people. Who looks at this page counts as somebody who may answer.

import { html, useEffect, useState } from "/ui/vendor/preact-htm.js";
import { Select, Trouble } from "/ui/ui.js";
import { get, post } from "/ui/api.js";
import { baseName, nameOf } from "/ui/policy.js";

const holds = [["once", "this once"], ["session", "until refd ends"], ["always", "always (writes a rule)"]];

export function Prompts() {
  const [list, set] = useState([]);
  const load = () => document.hidden || get("prompts").then(set, () => {});
  useEffect(() => {
    load();
    const t = setInterval(load, 1500);
    document.addEventListener("visibilitychange", load);
    return () => {
      clearInterval(t);
      document.removeEventListener("visibilitychange", load);
    };
  }, []);
  return html`<section class="prompts" aria-label="Questions" aria-live="polite">${list.slice(0, 3).map((p) => html`<${Prompt} key=${p.id} p=${p} done=${load} />`)}
    ${list.length > 3 && html`<p class="muted">and ${list.length - 3} more</p>`}</section>`;
}

const nameOfTarget = (t) => t.domain || t.remote.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");

function Prompt({ p, done }) {
  const [hold, setHold] = useState("once");
  const targets = [...new Set(p.targets.map(nameOfTarget))];
  const last = p.targets[p.targets.length - 1];
  const [target, setTarget] = useState(targets.length === 1 ? targets[0] : "");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const say = (body) => {
    setBusy(true);
    post("prompts/answer", { id: p.id, ...body }).then(done, (e) => (setBusy(false), setError(e)));
  };
  const answer = (action) => () => say({ answer: { action, for: hold, seen: p.revision, ...(target && { target }) } });
  const app = baseName(p.app) || nameOf(p.process);
  return html`<article class="prompt"><h2>${app} ${p.direction === "in" ? "is called by" : "wants to reach"} ${nameOfTarget(last)}</h2>
    <p class="muted">${p.app && html`<code>${p.app}</code>`} ${last.protocol} ${last.remote}${p.waiting ? `, ${p.waiting} waiting` : ", denied meanwhile"}${p.rule && ` · rule ${p.rule}`}</p>
    <div class="pair"><${Select} label="About" value=${target} options=${[...targets.map((t) => [t, t]), ["", p.direction === "in" ? "everybody" : "everything it reaches"]]} onChange=${setTarget} />
      <${Select} label="The answer holds" value=${hold} options=${holds} onChange=${setHold} /></div>
    <div class="buttons writes"><button type="button" class="primary" disabled=${busy} onClick=${answer("allow")}>Allow</button><button type="button" class="danger" disabled=${busy} onClick=${answer("block")}>Block</button><button type="button" class="quiet" disabled=${busy} onClick=${() => say({ dismiss: true })}>Not now</button></div>
    <${Trouble} error=${error} /></article>`;
}
