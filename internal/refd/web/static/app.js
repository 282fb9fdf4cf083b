// The page: login, navigation, and which view is shown.

import { html, render, useEffect, useState } from "/ui/vendor/preact-htm.js";
import { get, hasKey, login, onSession } from "/ui/api.js";
import { live } from "/ui/live.js";
import { Connections } from "/ui/connections.js";
import { App as AppPage, Apps, RuleLink } from "/ui/apps.js";
import { Settings } from "/ui/settings.js";
import { Prompts } from "/ui/prompts.js";
import { Status } from "/ui/status.js";
import { useAsync } from "/ui/ui.js";

// route takes the address apart: #/view/rest?parameters.
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view: view || "connections", rest: rest.map(decodeURIComponent), query: new URLSearchParams(query || "") };
}

function useRoute() {
  const [r, set] = useState(route);
  useEffect(() => {
    const onHash = () => set(route());
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);
  return r;
}

function Login({ error }) {
  return html`<main class="login"><h1>refd</h1><p>This page is for whoever has a login link. Get one on this computer:</p><pre><code>sudo refd ui</code></pre>${error && html`<p class="bad" role="alert">${error}</p>`}</main>`;
}

const views = [["connections", "Connections"], ["apps", "Apps"], ["settings", "Settings"], ["status", "Status"]];

function Shell() {
  const r = useRoute();
  const status = useAsync(() => get("status"), []);
  const notices = useAsync(() => get("notifications"), []);
  const [pushed, setPushed] = useState(null);
  const [link, setLink] = useState("connected");
  useEffect(() => live.notifications((list) => (setPushed(list), status.reload())), []);
  useEffect(() => live.changed(() => status.reload()), []);
  useEffect(() => live.state((s) => {
    setLink(s);
    if (s === "connected") status.reload();
  }), []);
  useEffect(() => {
    get("session").then((who) => (document.documentElement.dataset.role = who.role), () => {});
  }, []);
  const list = pushed || notices.value || [];
  const s = status.value;
  const paused = s?.pausedUntil && new Date(s.pausedUntil) > new Date();
  const main = () => {
    switch (r.view) {
      case "apps": return r.query.get("program") ? html`<${AppPage} program=${JSON.parse(r.query.get("program"))} key=${location.hash} />` : r.rest[0] ? html`<${AppPage} id=${r.rest[0]} key=${r.rest[0]} />` : html`<${Apps} />`;
      case "rules": return html`<${RuleLink} id=${r.rest[0]} />`;
      case "settings": return html`<${Settings} section=${r.rest[0]} rule=${r.query.get("rule")} />`;
      case "status": return html`<${Status} notices=${list} reloadNotices=${() => (setPushed(null), notices.reload())} />`;
      default: return html`<${Connections} filter=${r.query} open=${r.rest[0]} setFilter=${(f) => (location.hash = "#/connections" + (r.rest[0] ? "/" + r.rest[0] : "") + "?" + f)} />`;
    }
  };
  return html`<a class="skip" href="#main" onClick=${(e) => (e.preventDefault(), document.getElementById("main").focus())}>Skip to content</a>
    <header class="top"><a class="brand" href="#/connections" aria-label="refd"><img src="/ui/icon.svg" alt="" width="20" height="20" /><span>refd</span></a>
      <nav aria-label="Main">${views.map(([id, name]) => html`<a href=${"#/" + id} aria-current=${(r.view === "rules" ? "settings" : r.view) === id ? "page" : undefined}>${name}${id === "status" && list.length ? html` <span class=${"pill s-" + (list[0]?.severity || "hint")}>${list.length}<span class="sr"> notifications</span></span>` : ""}</a>`)}</nav>
      <div class="top-side">${s && html`<span class=${"mode m-" + (paused ? "paused" : s.mode)} title=${paused ? "everything passes" : s.mode === "observe" ? "decisions are computed, and everything passes" : "decisions are carried out"}>${paused ? "paused" : s.mode}</span>`}<${Theme} /></div></header>
    ${link !== "connected" && html`<div class="banner" role="alert">${link === "restart" ? "refd restarts." : link === "shutdown" ? "refd was stopped." : "No connection to refd."} This page goes on when it is back.</div>`}
    <main id="main" tabindex="-1">${main()}</main><${Prompts} />`;
}

function Theme() {
  const [theme, set] = useState(document.documentElement.dataset.theme || "auto");
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const go = () => {
    if (next === "auto") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("weir-theme");
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem("weir-theme", next);
    }
    set(next);
    dispatchEvent(new Event("weir-theme"));
  };
  return html`<button type="button" class="quiet theme" onClick=${go} aria-label=${`Theme: ${theme}. Change to ${next}.`} title=${"Theme: " + theme}>${{ auto: "◐", light: "☀", dark: "☾" }[theme]}</button>`;
}

function Root() {
  const [state, set] = useState({ phase: "begin" });
  useEffect(() => {
    const stop = onSession((loggedIn) => {
      if (!loggedIn) live.end();
      set((old) => (loggedIn ? { phase: "in" } : { phase: "out", error: old.error }));
    });
    const enter = async () => {
      const code = location.hash.match(/^#login=(.+)/)?.[1];
      if (code) {
        history.replaceState(null, "", "/");
        try {
          await login(code);
        } catch (e) {
          set({ phase: "out", error: e.message });
        }
        return;
      }
      if (!hasKey()) return set((old) => ({ ...old, phase: "out" }));
      get("session").then(() => set({ phase: "in" }), () => set((old) => ({ ...old, phase: "out" })));
    };
    enter();
    const onHash = () => location.hash.startsWith("#login=") && enter();
    addEventListener("hashchange", onHash);
    return () => (removeEventListener("hashchange", onHash), stop());
  }, []);
  if (state.phase === "begin") return null;
  return state.phase === "in" ? html`<${Shell} />` : html`<${Login} error=${state.error} />`;
}

const root = document.getElementById("app");
root.textContent = "";
render(html`<${Root} />`, root);
