// What of it is looked at: window, pause, theme and engine, all of it in the address's fragment.

export const WINDOWS = { 60: "1 min", 300: "5 min", 600: "10 min", 3600: "1 h", 7200: "2 h" };
export const FINE = 600; // seconds up to which cells are of a second
const LATEST = 1e11; // an instant beyond it is none: a sum of seconds and it is no longer exact

class View extends EventTarget {
  constructor() {
    super();
    this.window = 300;
    this.pausedAt = null; // an instant in seconds
    this.theme = "system";
    this.engine = "";
    this.range = null; // [from, to], instants
    this.cursor = null; // an instant
    this.read();
    addEventListener("hashchange", () => {
      this.read();
      this.changed();
    });
  }

  get seconds() {
    return this.engine || this.window > FINE ? 10 : 1; // of one engine of several there are no others
  }

  read() {
    const said = new URLSearchParams(location.hash.slice(1));
    const window = Number(said.get("window"));
    this.chosen = window in WINDOWS; // else it is as long as there is something to show
    this.window = this.chosen ? window : (this.window ?? 300);
    const paused = Number(said.get("pause"));
    this.pausedAt = paused > 0 && paused < LATEST ? Math.floor(paused) : null;
    this.theme = ["light", "dark"].includes(said.get("theme")) ? said.get("theme") : "system";
    this.engine = said.get("engine") ?? "";
    const range = (said.get("range") ?? "").split("-").map(Number);
    this.range = range.length === 2 && range.every(Number.isFinite) && range[0] < range[1] ? range : null;
  }

  set(changes) {
    Object.assign(this, changes);
    if ("window" in changes) this.chosen = true;
    const said = new URLSearchParams();
    if (this.chosen) said.set("window", this.window);
    if (this.pausedAt !== null) said.set("pause", this.pausedAt);
    if (this.theme !== "system") said.set("theme", this.theme);
    if (this.engine) said.set("engine", this.engine);
    if (this.range) said.set("range", this.range.join("-"));
    const fragment = said.toString();
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
    this.changed();
  }

  // The window of a young history is a minute, until somebody chooses one.
  fit(known) {
    const window = known < 60 ? 60 : 300;
    if (this.chosen || this.pausedAt !== null || this.window === window) return;
    this.window = window;
    this.changed();
  }

  point(cursor) {
    if (cursor === this.cursor) return;
    this.cursor = cursor;
    this.dispatchEvent(new Event("cursor"));
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}

export const view = new View();
