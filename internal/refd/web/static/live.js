// One stream of events for what every view follows, and one for the list with its filter.

import { stream } from "/ui/api.js";

const hears = { traffic: new Set(), notifications: new Set(), changed: new Set(), state: new Set() };
let stop = null;

function start() {
  if (stop) return;
  const tell = (name) => (data) => hears[name].forEach((fn) => fn(data));
  stop = stream("?only=traffic&only=notifications&only=changed", {
    traffic: tell("traffic"), notifications: tell("notifications"), changed: tell("changed"), state: tell("state"),
  });
}

const hear = (name) => (fn) => {
  hears[name].add(fn);
  start();
  return () => hears[name].delete(fn);
};

export const live = {
  traffic: hear("traffic"),
  notifications: hear("notifications"),
  changed: hear("changed"),
  state: hear("state"),
  // connections streams the rows of a filter. began is called whenever the stream begins: rows from before have to be asked for.
  connections: (params, add, began) => stream(params, { connections: add, state: (s) => s === "connected" && began() }),
  end: () => {
    stop?.();
    stop = null;
  },
};
