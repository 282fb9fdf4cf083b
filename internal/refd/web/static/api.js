// Talking to refd: requests, the session, and the stream of events.

const keyName = "weir-key";
const listeners = new Set();

export class Problem extends Error {
  constructor(status, body) {
    super(body.error || `refd answered ${status}`);
    this.status = status;
    this.problems = body.problems || [];
  }
}

// onSession calls fn(loggedIn) when that changes. It returns its undo.
export function onSession(fn) {
  listeners.add(fn);
  return () => listeners.delete(fn);
}

// hasKey reports whether there was a login in this browser.
export const hasKey = () => localStorage.getItem(keyName) !== null;

const tellSession = (loggedIn) => listeners.forEach((fn) => fn(loggedIn));

const headers = () => ({ "X-Weir-Key": localStorage.getItem(keyName) || "" });

// call makes a request and returns the answer. It throws a Problem.
export async function call(method, path, body, signal) {
  const init = { method, headers: headers(), signal, credentials: "same-origin" };
  if (body !== undefined) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  const res = await fetch("/api/v1/" + path, init);
  const text = await res.text();
  let out = {};
  try {
    out = text ? JSON.parse(text) : {};
  } catch {
    out = { error: text };
  }
  if (res.status === 401) tellSession(false);
  if (!res.ok) throw new Problem(res.status, out);
  return out;
}

export const get = (path, signal) => call("GET", path, undefined, signal);
export const post = (path, body, signal) => call("POST", path, body, signal);

// login uses the code of a link, once.
export async function login(code) {
  const out = await post("session", { code });
  localStorage.setItem(keyName, out.key);
  tellSession(true);
  return out;
}

export async function logout() {
  try {
    await call("DELETE", "session");
  } finally {
    localStorage.removeItem(keyName);
    tellSession(false);
  }
}

// shown waits until the page can be seen.
const shown = () => new Promise((go) => {
  if (!document.hidden) return go();
  document.addEventListener("visibilitychange", go, { once: true });
});

// hiddenFor is how many ms a page that nobody sees keeps its streams: a browser has six connections for all of its pages.
const hiddenFor = 5000;

// stream reads events until it is closed, and begins again when refd comes back. on.state hears connected, lost, shutdown and restart.
export function stream(params, on) {
  const abort = new AbortController();
  let wait = 500;
  const run = async () => {
    while (!abort.signal.aborted) {
      let ending = "", timer = 0;
      await shown();
      const hide = new AbortController();
      const look = () => {
        clearTimeout(timer);
        if (document.hidden) timer = setTimeout(() => hide.abort(), hiddenFor);
      };
      document.addEventListener("visibilitychange", look);
      try {
        const signal = AbortSignal.any([abort.signal, hide.signal]);
        const res = await fetch("/api/v1/events" + params, { headers: headers(), signal, credentials: "same-origin" });
        if (res.status === 401) return tellSession(false);
        if (!res.ok) throw new Problem(res.status, {});
        wait = 500;
        on.state("connected");
        ending = await readEvents(res.body, on);
      } catch (e) {
        if (abort.signal.aborted) return;
        if (hide.signal.aborted) continue;
      } finally {
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", look);
      }
      on.state(ending || "lost");
      await new Promise((r) => setTimeout(r, wait));
      wait = Math.min(wait * 2, 8000);
    }
  };
  run();
  return () => abort.abort();
}

// readEvents reads server-sent events (WHATWG HTML, section 9.2). It returns the name of the last one if that ends refd.
async function readEvents(body, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", ending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return ending;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const text of events) {
      let name = "", data = "";
      for (const line of text.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (name === "shutdown" || name === "restart") ending = name;
      else if (name && on[name]) on[name](JSON.parse(data));
    }
  }
}
