// The list of latents: search, order, filters, more as one scrolls.

import { append, failure, grouped, h, percent, round, visible } from "./dom.js";

const ORDERS = [["", "relevance or number"], ["density", "most frequent"], ["rare", "rarest"], ["maximum", "strongest"], ["stability", "most stable"], ["unstable", "least stable"], ["auroc", "best detector"]];
const KINDS = [["", "all"], ["alive", "fire at all"], ["dead", "dead"], ["labelled", "labelled by you"], ["on", "on a token"], ["after", "after a token"], ["mixed", "mixed contexts"]];

export class LatentList {
  constructor(source, meta, { changed = () => {}, extras = true } = {}) {
    this.source = source;
    this.meta = meta;
    this.rows = [];
    this.total = 0;
    this.query = {};
    this.current = null;
    this.changed = changed;
    const options = (list) => list.map(([value, text]) => h("option", { value }, text));
    const orders = ORDERS.filter(([key]) => (meta.stabilityKnown || !key.endsWith("stable")) && (key !== "stability" || meta.stabilityKnown) && (key !== "auroc" || meta.aurocKnown));
    this.search = h("input", { type: "search", placeholder: "Search labels and contexts", "aria-label": "Search labels and contexts", autocomplete: "off", oninput: () => this.later() });
    this.order = h("select", { "aria-label": "Order", onchange: () => this.reload() }, options(orders));
    this.kind = h("select", { "aria-label": "Which latents", onchange: () => this.reload() }, options(KINDS));
    this.listed = h("select", { "aria-label": "Your lists", onchange: () => this.reload() });
    this.most = h("select", { "aria-label": "Density", onchange: () => this.reload() }, options([["", "any density"], ["0.1", "under 10 %"], ["0.01", "under 1 %"], ["0.001", "under 0.1 %"]]));
    this.least = h("select", { "aria-label": "Stability", onchange: () => this.reload() }, options([["", "any stability"], ["0.5", "stability over 0.5"], ["0.7", "stability over 0.7"], ["0.9", "stability over 0.9"]]));
    this.area = h("select", { "aria-label": "AUROC", onchange: () => this.reload() }, options([["", "any AUROC"], ["0.7", "AUROC over 0.7"], ["0.8", "AUROC over 0.8"], ["0.9", "AUROC over 0.9"]]));
    this.count = h("p", { class: "count", role: "status" });
    this.items = h("ol", { class: "items", "aria-label": "Latents" });
    this.end = h("div", { class: "sentinel" });
    const shown = h("div", { class: "filters" }, this.order, extras && this.kind, extras && this.most, meta.stabilityKnown && extras && this.least, meta.aurocKnown && extras && this.area, extras && this.listed);
    this.scroller = h("div", { class: "scroller" }, this.items, this.end);
    this.element = h("nav", { class: "list", "aria-label": "List of latents" }, h("div", { class: "controls" }, this.search, shown, this.count), this.scroller);
    new IntersectionObserver((seen) => seen[0].isIntersecting && this.more(), { root: this.scroller, rootMargin: "600px" }).observe(this.end);
    this.setLists(meta.lists || []);
  }

  setLists(lists) {
    const before = this.listed.value;
    this.listed.replaceChildren(h("option", { value: "" }, "no list"), ...lists.map((l) => h("option", { value: l.id }, `${l.name} (${l.latents.length})`)));
    this.listed.value = lists.some((l) => String(l.id) === before) ? before : "";
    this.listed.hidden = lists.length === 0;
  }

  restore(parameters) {
    for (const [name, element] of Object.entries(this.fields())) element.value = parameters.get(name) || "";
    this.reload();
  }

  fields() {
    return { text: this.search, sort: this.order, kind: this.kind, list: this.listed, max_density: this.most, min_stability: this.least, min_auroc: this.area };
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.reload(), 120);
  }

  reload() {
    clearTimeout(this.timer);
    this.timer = null;
    this.query = Object.fromEntries(Object.entries(this.fields()).map(([k, e]) => [k, e.value]).filter(([, v]) => v !== ""));
    this.rows = [];
    this.stop?.abort();
    this.loading = null;
    this.changed(this.query);
    return this.more(true);
  }

  more(first = false) {
    if (!this.loading && (first || this.rows.length < this.total)) {
      const stop = (this.stop = new AbortController());
      const loading = this.load(first, stop.signal).finally(() => {
        if (this.loading === loading) this.loading = null;
      });
      this.loading = loading;
    }
    return this.loading;
  }

  async load(first, signal) {
    try {
      const page = await this.source.latents({ ...this.query, offset: this.rows.length }, signal);
      if (signal.aborted) return;
      if (first) {
        this.items.replaceChildren();
        this.scroller.scrollTop = 0;
      }
      this.total = page.total;
      this.rows.push(...page.rows);
      append(this.items, page.rows.map((row) => this.item(row)));
      this.count.textContent = this.total === 1 ? "1 latent" : `${grouped(this.total)} latents`;
      this.mark(this.current);
    } catch (error) {
      if (error.name !== "AbortError") this.items.replaceChildren(h("li", {}, failure(error)));
    }
  }

  // Waits for the rows of what is asked now: a later question may replace the one that is awaited.
  async settled() {
    if (this.timer) this.reload();
    while (this.loading) await this.loading;
  }

  item(row) {
    const detail = [percent(row.density), row.stability !== null && `stability ${round(row.stability, 2)}`, row.auroc !== null && `${row.auroc_label} ${round(row.auroc, 2)}`].filter(Boolean).join(" · ");
    return h("li", {}, h("a", { href: `#/latent/${row.id}`, "data-latent": row.id, class: row.count ? "" : "dead" },
      h("span", { class: "id" }, row.id), h("span", { class: "label", dir: "auto" }, row.note && h("span", { class: "mine", title: "your label" }, "★ "), visible(row.note || row.label)), h("span", { class: "detail" }, detail)));
  }

  mark(latent) {
    this.current = latent;
    this.items.querySelector("a[aria-current]")?.removeAttribute("aria-current");
    const here = this.items.querySelector(`a[data-latent="${latent}"]`);
    here?.setAttribute("aria-current", "page");
    here?.scrollIntoView({ block: "nearest" });
  }

  // The latent before or after the current one in this order.
  async step(by) {
    await this.settled();
    const at = this.rows.findIndex((r) => r.id === this.current);
    if (at + by >= this.rows.length) {
      this.more();
      await this.settled();
    }
    const next = this.rows[at < 0 ? 0 : at + by];
    if (next) location.hash = `#/latent/${next.id}`;
  }

  relabel(latent, note) {
    for (const row of this.rows) if (row.id === latent) row.note = note || null;
    const a = this.items.querySelector(`a[data-latent="${latent}"]`);
    const row = this.rows.find((r) => r.id === latent);
    if (a && row) a.parentElement.replaceWith(this.item(row));
    this.mark(this.current);
  }
}
