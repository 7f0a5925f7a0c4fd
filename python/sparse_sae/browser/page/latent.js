// One latent: every panel says what it shows, and against what.

import { histogram, meter } from "./charts.js";
import { append, fact, grouped, h, link, percent, round, tokenRun, visible } from "./dom.js";

const panel = (title, note, ...children) =>
  h("section", { class: "panel" }, h("h3", {}, title), note && h("p", { class: "note" }, note), ...children);

export function latentPage(data, meta, tools = null) {
  const name = data.note || data.label;
  document.title = `#${data.id} ${visible(name)}`;
  const page = h("article", { class: "latent", "aria-label": `Latent ${data.id}` });
  const dead = data.count === 0;
  append(page, [
    h("header", { class: "latent-head" },
      h("p", { class: "number" }, `Latent ${data.id}`, h("span", { class: "where" }, meta.hook_name)),
      h("h2", { dir: "auto" }, visible(name)),
      h("p", { class: "evidence" }, evidence(data, meta)),
      tools && tools.notes(data)),
    h("dl", { class: "facts" },
      fact("density", percent(data.density), `${grouped(data.count)} of ${grouped(meta.rows)} tokens`),
      fact("maximum", round(data.maximum), `mean ${round(data.mean)}`),
      data.stability !== null && fact("stability", round(data.stability, 2), stabilityNote(meta)),
      data.auroc !== null && fact(`AUROC ${data.auroc_label}`, round(data.auroc, 3), `shuffled labels' best: ${round(meta.auroc_chance[data.auroc_label], 3)}`)),
  ]);
  if (dead) {
    append(page, [panel("Dead", null, h("p", {}, `It fires on none of ${grouped(meta.rows)} tokens, so there is nothing to show but its direction. On other texts it may fire.`))]);
  }
  append(page, [
    !dead && contextPanel(data),
    tools && tools.steer && tools.steer(data),
    h("div", { class: "panels" },
      !dead && panel("Activations", `How strongly it fires where it fires: 50 bins from 0 to ${round(data.maximum)}; heights are logarithmic.`,
        histogram(data.histogram, 0, data.maximum, { label: `Histogram of ${data.count} activations` })),
      data.logits && logitPanel(data),
      data.nearest.length > 0 && neighbourPanel(data, meta),
      data.together.length > 0 && togetherPanel(data, meta),
      Object.keys(data.matches).length > 0 && matchPanel(data, meta),
      Object.keys(data.aurocs).length > 0 && detectorPanel(data, meta)),
  ]);
  return page;
}

function evidence(data, meta) {
  const e = data.evidence;
  if (e.kind === "dead") return "No evidence: it never fires here.";
  if (data.note) return `Your label. Automatic: ${visible(data.label)}.`;
  if (e.kind === "mixed") return `No few tokens account for its ${grouped(e.strong)} strong firings (at least half the maximum): read the contexts.`;
  const place = e.kind === "on" ? "on these tokens" : "right after these tokens";
  return `Automatic label: ${percent(e.cover)} of its ${grouped(e.strong)} strong firings are ${place}; it fires at ${percent(e.precision)} of their occurrences, and at ${percent(e.base)} of all tokens.`;
}

function stabilityNote(meta) {
  const levels = Object.values(meta.compared);
  return `mean cosine with its partners; chance ${round(levels.reduce((a, c) => a + c.chance, 0) / levels.length, 2)}`;
}

function logitPanel(data) {
  const most = Math.max(...data.logits.promoted.map((p) => Math.abs(p[1])), ...data.logits.suppressed.map((p) => Math.abs(p[1])), 1e-9);
  const column = (title, rows, kind) => h("div", {}, h("h4", {}, title), h("ol", { class: `logits ${kind}` },
    rows.map(([text, value]) => h("li", {}, h("span", { class: "tok word" }, visible(text)), h("span", { class: "bar", style: { "--share": (Math.abs(value) / most).toFixed(3) } }), h("span", { class: "value" }, round(value))))));
  return panel("Logits", "What one unit of it adds to each token's logit directly, through the final norm and the unembedding; layers between are left out.",
    h("div", { class: "two" }, column("promotes", data.logits.promoted, "up"), column("suppresses", data.logits.suppressed, "down")),
    histogram(data.logits.heights, data.logits.low, data.logits.high, { label: "Histogram of its effects on all tokens", height: 80 }));
}

function neighbourPanel(data, meta) {
  const chance = 1 / Math.sqrt(meta.d_in);
  return panel("Nearest by direction", `Cosine of decoder rows. Random directions in ${meta.d_in} dimensions: ± ${round(chance, 2)}.`,
    h("table", {}, h("tbody", {}, data.nearest.map((n) => h("tr", {},
      h("td", {}, link(n.id)), h("td", { class: "name", dir: "auto" }, visible(n.label)), h("td", { class: "chart" }, meter(n.cosine, chance)), h("td", { class: "value" }, round(n.cosine, 2)))))));
}

function togetherPanel(data, meta) {
  return panel("Fires together with", `Correlation φ of firing over ${grouped(meta.coactivation_rows)} tokens; then how often the other fires where this one does, and how often anywhere.`,
    h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "latent"), h("th", {}, "label"), h("th", { class: "value" }, "φ"), h("th", { class: "value" }, "here"), h("th", { class: "value" }, "anywhere"))),
      h("tbody", {}, data.together.map((n) => h("tr", {},
        h("td", {}, link(n.id)), h("td", { class: "name", dir: "auto" }, visible(n.label)), h("td", { class: "value" }, round(n.phi, 2)), h("td", { class: "value" }, percent(n.given)), h("td", { class: "value" }, percent(n.base)))))));
}

function matchPanel(data, meta) {
  return panel("In other dictionaries", "Its partner in the optimal one-to-one assignment, by cosine, beside the mean that chance reaches.",
    h("table", {}, h("tbody", {}, Object.entries(data.matches).map(([name, [partner, cosine]]) => h("tr", {},
      h("td", { class: "name" }, name), h("td", {}, `#${partner}`), h("td", { class: "chart" }, meter(cosine, meta.compared[name].chance)), h("td", { class: "value" }, `${round(cosine, 2)} (chance ${round(meta.compared[name].chance, 2)})`))))));
}

function detectorPanel(data, meta) {
  return panel("As a detector of labels", "AUROC of its maximum over a text; beside it the best that any latent reaches when labels are shuffled.",
    h("table", {}, h("tbody", {}, Object.entries(data.aurocs).map(([name, area]) => h("tr", {},
      h("td", { class: "name" }, name), h("td", { class: "chart" }, meter(area, meta.auroc_chance[name])), h("td", { class: "value" }, `${round(area, 3)} (${round(meta.auroc_chance[name], 3)})`))))));
}

const FIRST_SHOWN = 8;

function contextPanel(data) {
  const body = h("div", { class: "contexts" });
  const buttons = [];
  const show = (which) => {
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === which ? "true" : "false"));
    body.replaceChildren();
    if (which === 0) {
      const rest = data.contexts[0].slice(FIRST_SHOWN);
      append(body, data.contexts[0].slice(0, FIRST_SHOWN).map((c) => contextRow(c, data.maximum)));
      const more = h("button", { type: "button", class: "more", onclick: () => more.replaceWith(...rest.map((c) => contextRow(c, data.maximum))) }, `${rest.length} more`);
      if (rest.length) body.append(more);
    } else {
      data.contexts.slice(1).forEach((group, i) => {
        const low = (9 - i) / 10, count = data.intervals[9 - i];
        append(body, [h("h4", {}, `${round(low * data.maximum)} – ${round((low + 0.1) * data.maximum)}`, h("small", {}, ` ${grouped(count)} firings, ${percent(count / data.count)}; ${group.length} drawn at random`)),
          group.map((c) => contextRow(c, data.maximum))]);
      });
    }
  };
  buttons.push(h("button", { type: "button", onclick: () => show(0) }, "strongest"), h("button", { type: "button", onclick: () => show(1) }, "across the range"));
  const section = h("section", { class: "panel wide" }, h("div", { class: "panel-head" }, h("h3", {}, "Contexts"), h("div", { class: "switch", role: "group", "aria-label": "Which contexts" }, buttons)),
    h("p", { class: "note" }, "Shading is its activation relative to its maximum; the token in bold is the one listed. Strongest: one a text window. Across the range: what the strongest do not show."), body);
  show(0);
  return section;
}

export function contextRow(context, maximum) {
  const active = new Map(context.active);
  const share = (i) => (maximum ? Math.min(1, Math.abs(active.get(i) || 0) / maximum) : 0);
  return h("div", { class: "context" }, h("span", { class: "value" }, round(context.value)),
    h("p", { class: "run", dir: "auto" }, tokenRun(context.tokens, share, { mark: context.at, title: (i) => (active.has(i) ? round(active.get(i)) : null) })));
}
