// An attribution graph: tokens below, the target above, layers between. Choose a node to walk along its edges.

import { append, failure, h, round, vector, visible } from "./dom.js";

const MOST_NODES = 400;

export function circuitPage(source, meta) {
  document.title = "Circuit";
  const holder = h("div", { class: "graph-holder" });
  const side = h("div", { class: "side" });
  const status = h("p", { class: "note", role: "status" });
  const input = h("input", { type: "file", accept: ".json,application/json", "aria-label": "Attribution graph (JSON)", onchange: async () => {
    if (!input.files[0]) return;
    try {
      show(JSON.parse(await input.files[0].text()));
    } catch (error) {
      status.replaceChildren(failure(new Error(`Not an attribution graph: ${error.message}`)));
    }
  } });
  const page = h("section", { class: "circuit" }, h("h2", {}, "Circuit"),
    h("p", { class: "note" }, "Opens what `sparse_sae.circuits.write_neuronpedia` and circuit-tracer write. The file stays in this browser; `--graph FILE` opens one (also .npz) at the start."),
    h("div", { class: "row" }, input), status, h("div", { class: "graph-and-side" }, holder, side));

  function show(graph) {
    if (!Array.isArray(graph.nodes) || !Array.isArray(graph.links)) throw new Error("no lists of nodes and links");
    const influence = (n) => (typeof n.influence === "number" ? n.influence : 1);
    // Neuronpedia's influence is cumulative: the smaller, the more it matters.
    const inner = graph.nodes.filter((n) => !fixed(n)).sort((a, b) => influence(a) - influence(b));
    const shownNodes = [...graph.nodes.filter(fixed), ...inner.slice(0, MOST_NODES)];
    const nodes = new Map(shownNodes.map((n) => [n.node_id, n]));
    const links = graph.links.filter((l) => nodes.has(l.source) && nodes.has(l.target));
    status.textContent = `${graph.metadata?.scan || "graph"}: ${shownNodes.length} of ${graph.nodes.length} nodes (the most influential), ${links.length} of ${graph.links.length} edges`;
    draw(nodes, links, graph.metadata?.prompt_tokens || []);
  }

  function draw(nodes, links, words) {
    const layers = [...new Set([...nodes.values()].map(level))].sort((a, b) => a - b);
    const columns = Math.max(words.length, 1 + Math.max(...[...nodes.values()].map((n) => n.ctx_idx || 0)));
    const cell = 96, high = 44, left = 40, width = left + columns * cell, height = (layers.length + 1) * high;
    const places = new Map(), crowd = new Map();
    for (const n of nodes.values()) {
      const key = `${level(n)} ${n.ctx_idx}`;
      crowd.set(key, [...(crowd.get(key) || []), n.node_id]);
    }
    for (const ids of crowd.values()) ids.forEach((id, i) => {
      const n = nodes.get(id);
      places.set(id, [left + (n.ctx_idx + (i + 1) / (ids.length + 1)) * cell, height - high * (layers.indexOf(level(n)) + 1)]);
    });
    const strongest = Math.max(...links.map((l) => Math.abs(l.weight)), 1e-12);
    const lines = new Map();
    const edges = vector("g", { class: "edges" });
    for (const l of links) {
      const [x1, y1] = places.get(l.source), [x2, y2] = places.get(l.target);
      const line = vector("path", { d: `M${x1},${y1} C${x1},${(y1 + y2) / 2} ${x2},${(y1 + y2) / 2} ${x2},${y2}`, class: l.weight < 0 ? "edge negative" : "edge", "stroke-width": (0.5 + 3 * Math.sqrt(Math.abs(l.weight) / strongest)).toFixed(2) });
      lines.set(l, line);
      edges.append(line);
    }
    const dots = vector("g", {}), marks = new Map();
    for (const [id, [x, y]] of places) {
      const n = nodes.get(id);
      const dot = vector("g", { class: `node ${kind(n)}`, tabindex: 0, role: "button", "aria-label": title(n), transform: `translate(${x},${y})` },
        kind(n) === "error" ? vector("rect", { x: -5, y: -5, width: 10, height: 10, transform: "rotate(45)" }) : vector("circle", { r: 6 }), vector("title", {}, title(n)));
      dot.addEventListener("click", () => choose(id));
      dot.addEventListener("keydown", (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose(id)));
      marks.set(id, dot);
      dots.append(dot);
    }
    const texts = words.map((w, i) => vector("text", { x: left + (i + 0.5) * cell, y: height - 8, "text-anchor": "middle", class: "word" }, visible(w)));
    const names = layers.map((l, i) => vector("text", { x: 4, y: height - high * (i + 1) + 4, class: "layer" }, l < 0 ? "in" : l === layers[layers.length - 1] ? "out" : `L${l}`));
    holder.replaceChildren(vector("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "graph", "aria-label": "Attribution graph", role: "group" }, edges, dots, texts, names));

    function choose(id) {
      const own = links.filter((l) => l.source === id || l.target === id);
      for (const [l, line] of lines) line.classList.toggle("lit", own.includes(l));
      for (const [other, dot] of marks) dot.classList.toggle("chosen", other === id);
      holder.firstChild.classList.add("focused");
      const n = nodes.get(id);
      const listOf = (name, rows, end) => h("div", {}, h("h4", {}, name), rows.length === 0 && h("p", { class: "note" }, "none shown"),
        h("ol", { class: "walk" }, rows.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 25).map((l) => h("li", {},
          h("button", { type: "button", class: "plain", onclick: () => { choose(l[end]); marks.get(l[end]).focus(); } }, title(nodes.get(l[end]))), h("span", { class: "value" }, round(l.weight))))));
      const [layer, latent] = own.length || kind(n) ? id.split("_").map(Number) : [];
      const here = kind(n) === "feature" && meta.hook_name.includes(`.${layer}.`) && latent < meta.d_sae;
      side.replaceChildren();
      append(side, [h("h3", {}, title(n)), here && h("p", {}, h("a", { href: `#/latent/${latent}` }, `Open latent ${latent}`)),
        n.activation !== undefined && h("p", { class: "note" }, `activation ${round(n.activation)}`),
        listOf("comes from", own.filter((l) => l.target === id), "source"), listOf("goes to", own.filter((l) => l.source === id), "target")]);
    }
    const target = [...nodes.values()].filter((n) => n.is_target_logit)[0];
    if (target) choose(target.node_id);
  }

  if (meta.graph) source.graph().then(show, (error) => status.replaceChildren(failure(error)));
  return page;
}

const kind = (n) => (n.feature_type === "embedding" ? "embedding" : n.feature_type === "logit" ? "logit" : /error/.test(n.feature_type || "") ? "error" : "feature");
const fixed = (n) => ["embedding", "logit"].includes(kind(n));
const level = (n) => (n.layer === "E" ? -1 : Number(n.layer));

function title(n) {
  if (kind(n) === "feature") {
    const [layer, latent] = n.node_id.split("_");
    return `layer ${layer} #${latent}${n.clerp ? ` ${visible(n.clerp)}` : ""}`;
  }
  if (kind(n) === "error") return `error of layer ${n.layer}, position ${n.ctx_idx}`;
  return visible(n.clerp || n.node_id);
}
