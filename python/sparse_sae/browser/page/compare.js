// This dictionary against others: what came back, beside what chance brings back.

import { histogram, meter } from "./charts.js";
import { append, grouped, h, link, percent, round, visible } from "./dom.js";

export function comparePage(source, meta) {
  document.title = "Compare";
  const page = h("section", { class: "compare" }, h("h2", {}, "Compare"));
  const names = Object.entries(meta.compared);
  if (!names.length) {
    append(page, [h("p", { class: "note" }, "This file was built without another dictionary. Build it with --compare SAE … (other seeds, say) to see which latents come back.")]);
    return page;
  }
  append(page, [
    h("p", { class: "note" }, "The optimal one-to-one assignment on cosine. Chance: random directions of the same size and covariance, matched in the same way. Corrected: 0 at chance, 1 for identical dictionaries."),
    h("table", { class: "wide" }, h("thead", {}, h("tr", {}, h("th", {}, "with"), h("th", { class: "value" }, "latents"), h("th", { colSpan: 2 }, "mean cosine"), h("th", { class: "value" }, "chance"), h("th", { class: "value" }, "corrected"), h("th", { class: "value" }, "above 0.9"))),
      h("tbody", {}, names.map(([name, c]) => h("tr", {}, h("td", {}, name), h("td", { class: "value" }, grouped(c.d_sae)), h("td", { class: "chart" }, meter(c.mcc, c.chance)), h("td", { class: "value" }, round(c.mcc, 3)), h("td", { class: "value" }, round(c.chance, 3)), h("td", { class: "value" }, round(c.corrected, 3)), h("td", { class: "value" }, `${grouped(c["above_0.9"])} (${percent(c["above_0.9"] / c.pairs)})`))))),
  ]);
  const ends = h("div", { class: "two" });
  page.append(ends);
  for (const [title, sort] of [["Most stable", "stability"], ["Least stable, but alive", "unstable"]]) {
    const body = h("ol", { class: "walk" });
    append(ends, [h("div", {}, h("h3", {}, title), body)]);
    source.latents({ sort, kind: "alive", offset: 0 }).then(({ rows }) => append(body, rows.slice(0, 15).map((r) =>
      h("li", {}, link(r.id), h("span", { class: "name", dir: "auto" }, ` ${visible(r.note || r.label)} `), h("span", { class: "value" }, round(r.stability, 2))))));
  }
  return page;
}

export function overview(meta) {
  const s = meta.statistics;
  return h("section", { class: "overview" }, h("h2", {}, `${grouped(meta.d_sae)} latents`),
    h("p", { class: "note" }, `${meta.hook_name || "no hook point"} of ${meta.model_name || "no named model"}, on ${grouped(meta.rows)} tokens of ${grouped(meta.texts)} texts. L0 ${round(meta.l0, 3)}; ${grouped(meta.dead)} never fire (${percent(meta.dead / meta.d_sae)}). Left out: ${Object.entries(meta.excluded).map(([k, n]) => `${grouped(n)} ${k}`).join(", ")}.`),
    h("h3", {}, "How often latents fire"),
    histogram(s.heights, s.low, s.high, { label: "Histogram of densities", log: false, width: 640, ticks: [-6, -5, -4, -3, -2, -1].map((e) => [e, percent(10 ** e)]) }),
    h("p", { class: "note" }, "Share of tokens on which each latent fires, logarithmic. Very frequent latents seldom mean one thing."),
    h("h3", {}, "Keys"),
    h("dl", { class: "keys" }, [["/", "search"], ["j, k", "next, previous latent"], ["g l, g t, g m, g c", "latents, live text, map, circuit"], ["t", "dark or light"], ["Esc", "leave a field"]].map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])));
}
