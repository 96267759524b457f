// Asks the server, once a second while somebody looks, and says how the connection stands.

const TOKEN = "batchscope-token";
const PATIENCE = 2000; // ms for an answer: two intervals, then it is silent
const LONGEST_PAUSE = 2000; // ms between two tries, and then a second to answer: a server that returns is live within 3 s

export class Link {
  // `told(answer, query)` for each answer, `state(name)` where it changes: live, silent, gone, locked, closed, unknown.
  constructor(query, told, state) {
    this.query = query;
    this.told = told;
    this.state = state;
    this.failures = 0;
    this.timer = 0;
    this.asking = false;
    this.pending = new Set();
    this.bytes = 0;
    this.answers = 0;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.ask()));
  }

  stop() {
    clearTimeout(this.timer);
    for (const one of this.pending) one.abort();
  }

  use(token) {
    sessionStorage.setItem(TOKEN, token);
    this.ask();
  }

  headers() {
    const token = sessionStorage.getItem(TOKEN);
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  async get(path, patience = PATIENCE) {
    const pending = new AbortController();
    const timer = setTimeout(() => pending.abort(), patience);
    this.pending.add(pending);
    try {
      const answer = await fetch(path, { headers: this.headers(), signal: pending.signal, cache: "no-store", credentials: "omit" });
      const text = await answer.text();
      return { status: answer.status, text };
    } finally {
      clearTimeout(timer);
      this.pending.delete(pending);
    }
  }

  async ask() {
    clearTimeout(this.timer);
    this.again = this.asking;
    if (this.asking || document.hidden) return;
    this.asking = true;
    const began = performance.now();
    let pause = 1000;
    const query = this.query();
    const { status, text, error } = await this.get(`history?${query}`, this.answers ? PATIENCE : 5 * PATIENCE).catch((error) => ({ error }));
    this.failures = status === 200 ? 0 : this.failures + 1;
    if (status === 200) {
      this.answers += 1;
      this.bytes = text.length;
      try {
        this.told(JSON.parse(text), query);
      } catch (defect) {
        console.error(defect); // of ours: the server did answer
      }
      this.state("live");
    } else if (error) this.state(error.name === "AbortError" ? "silent" : "gone");
    else this.state({ 401: "locked", 503: "closed", 404: "unknown" }[status] ?? "gone");
    this.asking = false;
    if (document.hidden) return;
    if (status === 401) pause = Infinity; // until somebody gives a token
    else if (this.failures) pause = Math.min(LONGEST_PAUSE, 700 * 1.3 ** this.failures) * (0.8 + 0.2 * Math.random());
    if (this.again) pause = 0; // something else was chosen while it was asked
    if (pause === Infinity) return;
    this.timer = setTimeout(() => this.ask(), Math.max(50, pause - (this.failures ? 0 : performance.now() - began)));
  }
}
