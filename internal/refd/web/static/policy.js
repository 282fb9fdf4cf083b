// Profiles of apps and their rules, as the configuration file has them.

import { call, get, Problem } from "/ui/api.js";

export const nameOf = (p) => (p?.script || p?.path || "").split("/").pop() || "unknown";

const slug = (text) => text.toLowerCase().replace(/[^a-z0-9.-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "rule";

// profileOf returns the profile of a program: the first that the daemon finds for its path, or a new one.
export async function profileOf(process) {
  const apps = await get("apps");
  const path = process.script || process.path;
  const app = apps.find((a) => a.profile && a.profile.match?.some((m) => m.path === process.path || m.script === process.script && process.script)) || apps.find((a) => a.profile && a.path === path);
  return app?.profile || newProfile(process, apps);
}

// newProfile has an id that no other profile has.
export function newProfile(process, apps) {
  const taken = new Set(apps.filter((a) => a.profile).map((a) => a.profile.id));
  const base = slug(nameOf(process));
  let id = base;
  for (let n = 2; taken.has(id); n++) id = `${base}-${n}`;
  return { id, match: [process.script ? { script: process.script } : { path: process.path }] };
}

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
