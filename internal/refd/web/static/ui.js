// What several views use: words, formats and small components.

import { html, useEffect, useRef, useState } from "/ui/vendor/preact-htm.js";

// verdicts by their names in the API: the label, the class of rows, and whether the connection gets somewhere.
export const verdicts = {
  Undecided: { label: "undecided", cls: "undecided" },
  Undeterminable: { label: "undeterminable", cls: "undecided" },
  Accept: { label: "allowed", cls: "accept", allows: true },
  Block: { label: "blocked", cls: "block" },
  Drop: { label: "dropped", cls: "drop" },
  RerouteToNameserver: { label: "to nameserver", cls: "nameserver", allows: true },
  RerouteToTunnel: { label: "tunneled", cls: "tunnel", allows: true },
  Failed: { label: "failed", cls: "failed" },
  RerouteToSplitTun: { label: "split tunneled", cls: "split", allows: true },
};

export const verdictOf = (name) => verdicts[name] || { label: name, cls: "undecided" };

export function bytes(n) {
  if (!n) return "0 B";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1000;
    i++;
  }
  return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[i];
}

const clockFormat = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const dateFormat = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium", hour12: false });
export const clock = (t) => clockFormat.format(new Date(t));
export const dateTime = (t) => dateFormat.format(new Date(t));

export function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  seconds = Math.round(seconds);
  if (seconds < 60) return seconds + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min " + (seconds % 60) + " s";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h " + Math.floor((seconds % 3600) / 60) + " min";
  return Math.floor(seconds / 86400) + " d " + Math.floor((seconds % 86400) / 3600) + " h";
}

// split takes "192.0.2.1:443" and "[2001:db8::1]:443" apart.
export function splitAddr(text) {
  const i = text.lastIndexOf(":");
  return { host: text.slice(0, i).replace(/^\[|\]$/g, ""), port: text.slice(i + 1) };
}

export const where = (row) => row.domain || splitAddr(row.remote).host;

export function Badge({ verdict, enforced }) {
  const v = verdictOf(verdict);
  const only = enforced === false && !v.allows && verdict !== "Undecided";
  return html`<span class="badge v-${v.cls}" title=${only ? "computed only: mode observe lets it pass" : undefined}><i aria-hidden="true"></i>${v.label}${only ? " (observed)" : ""}</span>`;
}

// useAsync runs fn when deps change, and returns its value, its error and how to run it again.
export function useAsync(fn, deps) {
  const [state, set] = useState({});
  const [again, setAgain] = useState(0);
  useEffect(() => {
    let live = true;
    fn().then(
      (value) => live && set({ value }),
      (error) => live && set((old) => ({ value: old.value, error })),
    );
    return () => (live = false);
  }, [...deps, again]);
  return { ...state, reload: () => setAgain((n) => n + 1) };
}

export function Trouble({ error }) {
  if (!error) return null;
  return html`<div class="trouble" role="alert">
    ${error.problems?.length ? error.problems.map((p) => html`<p>${p.key && html`<code>${p.key}</code> `}${p.text}${p.hint && html` <span class="hint">${p.hint}</span>`}</p>`) : html`<p>${error.message}</p>`}
  </div>`;
}

export function Switch({ label, hint, checked, onChange, disabled }) {
  return html`<label class="switch"><input type="checkbox" role="switch" checked=${checked} disabled=${disabled} onChange=${(e) => onChange(e.target.checked)} /><span class="track" aria-hidden="true"></span><span class="text"><span>${label}</span>${hint && html`<small>${hint}</small>`}</span></label>`;
}

export function Select({ label, value, options, onChange, disabled, hide }) {
  return html`<label class="field"><span class=${hide ? "sr" : ""}>${label}</span><select value=${value} disabled=${disabled} onChange=${(e) => onChange(e.target.value)}>
    ${options.map(([v, text]) => html`<option value=${v} selected=${v === value}>${text}</option>`)}
  </select></label>`;
}

export function Field({ label, value, onInput, onCommit, placeholder, error, type, hide, disabled, inputRef }) {
  // What is being typed is not overwritten by what is drawn meanwhile; nor is what was typed and refused.
  const [typed, keep] = useState(null);
  const own = useRef(null), ref = inputRef || own;
  useEffect(() => {
    if (document.activeElement !== ref.current) keep(null);
  }, [value]);
  const input = (e) => {
    keep(e.target.value);
    onInput?.(e.target.value);
  };
  return html`<label class="field"><span class=${hide ? "sr" : ""}>${label}</span><input type=${type || "text"} value=${typed ?? value} placeholder=${placeholder} disabled=${disabled} ref=${ref}
    spellcheck=${false} autocomplete="off" aria-invalid=${error ? "true" : undefined} onInput=${input} onBlur=${onInput && (() => keep(null))} onChange=${onCommit && ((e) => onCommit(e.target.value))} />
    ${error && html`<small class="bad" role="alert">${error}</small>`}</label>`;
}

// Chart draws lines over time with uPlot, and follows size and theme. data is [times, ...values].
export function Chart({ data, series, height, label, format }) {
  const box = useRef(null), plot = useRef(null);
  const [theme, redraw] = useState(0);
  useEffect(() => {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const make = () => new uPlot({
      width: Math.max(box.current.clientWidth, 50), height, legend: { show: false }, cursor: { show: false }, padding: [8, 8, 0, 0],
      scales: { y: { range: (u, min, max) => [0, Math.max(max * 1.1, 1000)] } },
      axes: [{ ...axis, space: 80, size: 22, values: (u, ts) => ts.map((t) => clock(t * 1000)) }, { ...axis, size: 62, space: 26, values: (u, vs) => vs.map(format) }],
      series: [{}, ...series.map((s) => ({ label: s.label, stroke: colour(s.colour), fill: s.fill && colour(s.fill), width: 1.5, points: { show: false } }))],
    }, data, box.current);
    plot.current = make();
    const size = new ResizeObserver(() => box.current && plot.current?.setSize({ width: Math.max(box.current.clientWidth, 50), height }));
    size.observe(box.current);
    const again = () => {
      plot.current.destroy();
      plot.current = null;
      redraw((n) => n + 1);
    };
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", again);
    addEventListener("weir-theme", again);
    return () => {
      size.disconnect();
      dark.removeEventListener("change", again);
      removeEventListener("weir-theme", again);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [height, theme]);
  useEffect(() => plot.current?.setData(data), [data]);
  return html`<div class="chart" role="img" aria-label=${label} ref=${box} style=${{ minHeight: height + "px" }}></div>`;
}
