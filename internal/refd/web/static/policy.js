// Profiles of apps and their rules, as the configuration file has them.

import { call, get, post, Problem } from "/ui/api.js";

export const baseName = (path) => (path || "").split(/[/\\]/).pop();
export const nameOf = (p) => baseName(p?.script || p?.path || p?.innerPath) || "unknown";

const slug = (text) => text.toLowerCase().replace(/[^a-z0-9.-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "rule";

// readOnly reports whether whoever looks may change nothing.
export const readOnly = () => document.documentElement.dataset.role === "read";

// find returns the profile that the rules in force have for a program, or a new one for it: known says which.
export const find = (process) => post("apps/find", { process });

// linkOf leads to the page of a program.
export const linkOf = (process) => "#/apps?program=" + encodeURIComponent(JSON.stringify(process));

// uniqueID returns an id that no rule has: this one, or with a number.
export async function uniqueID(wanted) {
  const taken = new Set((await get("rules")).map((r) => r.id));
  const id = slug(wanted);
  for (let n = 1; ; n++) {
    const one = n === 1 ? id : `${id}-${n}`;
    if (!taken.has(one)) return one;
  }
}

// save writes a profile, or only checks it. It throws what is wrong with it.
export async function save(id, profile, check) {
  const out = await call("PUT", "apps/" + encodeURIComponent(id), { profile, check: !!check });
  if (out.problems?.length) throw new Problem(422, { error: "This cannot be saved.", problems: out.problems });
  return out;
}
export const remove = (id) => call("DELETE", "apps/" + encodeURIComponent(id));

// list turns "a, b" into what the API wants, and text turns it back.
export const list = (text) => text.split(/[,\s]+/).filter(Boolean);
export const text = (list) => (list || []).join(", ");

// clean leaves out what is empty.
export function clean(o) {
  const out = {};
  for (const [k, v] of Object.entries(o)) if (v !== "" && v !== undefined && v !== null && !(Array.isArray(v) && !v.length)) out[k] = v;
  return out;
}
