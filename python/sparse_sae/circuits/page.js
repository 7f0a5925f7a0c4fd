"use strict";
(() => { // names of its own: `top` and others belong to the window
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
// Texts come from models and users: they only ever become text nodes and attributes, never markup.
function make(parent, name, attributes = {}, text = null, space = null) {
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}
const draw = (parent, name, attributes, text = null) => make(parent, name, attributes, text, SVG);
const short = (text, n) => (text.length > n ? text.slice(0, n - 1) + "…" : text);
const shown = (text) => text.replace(/\n/g, "⏎").replace(/ /g, "\u00b7");
const number = (x) => (x === null ? "–" : Math.abs(x) >= 1000 || (x !== 0 && Math.abs(x) < 0.01) ? x.toExponential(1) : x.toFixed(2));

const nodes = data.nodes, links = data.links;
const into = nodes.map(() => []), from = nodes.map(() => []);
links.forEach(([target, source, weight], i) => {
  into[target].push({ other: source, weight, i });
  from[source].push({ other: target, weight, i });
});
for (const list of [...into, ...from]) list.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));

byId("title").textContent = data.title;
byId("prompt").textContent = data.words.map(shown).join(" ");
byId("facts").textContent = data.facts;
if (data.confirmation) {
  const passed = data.confirmation.failed.length === 0;
  make(byId("verdict"), "b", { class: passed ? "good" : "bad" }, passed ? "Confirmed. " : "Not confirmed. ");
  byId("verdict").append(data.confirmation.verdict.replace(/^[^:]*: /, passed ? "" : data.confirmation.failed.join("; ") + ". "));
} else make(byId("verdict"), "span", { class: "quiet" }, "Not held against the model: no ablation was run for this graph.");

// Layout: a column a token that has nodes, a row a layer; nodes of one cell side by side, the most influential first.
const R = 5, STEP = 14, ROW = 24, LEFT = 10, TOP = 16;
const positions = [...new Set(nodes.map((n) => n.position))].sort((a, b) => a - b);
const rows = [...new Set(nodes.map((n) => n.row))].sort((a, b) => b - a);
const cells = new Map();
nodes.forEach((n, i) => {
  const key = n.row + "/" + n.position;
  if (!cells.has(key)) cells.set(key, []);
  cells.get(key).push(i);
});
const PER_LINE = 8;
const width = {}, lines = {};
for (const p of positions) width[p] = 36;
for (const r of rows) lines[r] = 1;
for (const [key, members] of cells) {
  const [r, p] = key.split("/").map(Number);
  width[p] = Math.max(width[p], Math.min(members.length, PER_LINE) * STEP + 14);
  lines[r] = Math.max(lines[r], Math.ceil(members.length / PER_LINE));
}
const left = {}, top = {};
let x = LEFT, y = TOP;
for (const p of positions) { left[p] = x; x += width[p]; }
for (const r of rows) { top[r] = y; y += ROW + (lines[r] - 1) * STEP; }
const names = draw(byId("graph"), "svg", { class: "rows", width: 66, height: y + 96 });
const svg = draw(byId("graph"), "svg", { width: x + 20, height: y + 96, role: "group" });
for (const r of rows) {
  const at = top[r] + 12;
  draw(svg, "line", { class: "guide", x1: 0, x2: x, y1: at + 11, y2: at + 11 });
  draw(names, "text", { class: "quiet", x: 8, y: at + 4 }, r === -1 ? "tokens" : r === data.n_layers ? "target" : "layer " + r);
}
for (const [key, members] of cells) {
  const [r, p] = key.split("/").map(Number);
  members.sort((a, b) => nodes[b].influence - nodes[a].influence || a - b);
  members.forEach((i, k) => {
    const inLine = Math.min(members.length - Math.floor(k / PER_LINE) * PER_LINE, PER_LINE);
    nodes[i].x = left[p] + width[p] / 2 + ((k % PER_LINE) - (inLine - 1) / 2) * STEP;
    nodes[i].y = top[r] + 12 + Math.floor(k / PER_LINE) * STEP;
  });
}
for (const p of positions) {
  const at = left[p] + width[p] / 2;
  draw(svg, "text", { x: at, y: y + 4, "text-anchor": "end", transform: `rotate(-40 ${at} ${y + 4})` }, short(shown(data.words[p]), 14));
}
const largest = Math.max(1e-12, ...links.map((l) => Math.abs(l[2])));
const paths = links.map(([t, s, w]) => {
  const a = nodes[s], b = nodes[t], middle = (a.y + b.y) / 2;
  const d = `M${a.x} ${a.y}C${a.x} ${middle} ${b.x} ${middle} ${b.x} ${b.y}`;
  return draw(svg, "path", { class: "edge " + (w > 0 ? "plus" : "minus"), d, "stroke-width": 0.6 + 3 * Math.sqrt(Math.abs(w) / largest) });
});
const SHAPES = { feature: "circle", error: "rect", token: "rect", target: "rect" };
const marks = nodes.map((n, i) => {
  const size = n.kind === "feature" ? R + 2 * Math.min(1, Math.sqrt(n.influence * 4)) : R;
  const shape = SHAPES[n.kind] === "circle" ? { cx: n.x, cy: n.y, r: size } : { x: n.x - size, y: n.y - size, width: 2 * size, height: 2 * size };
  if (n.kind === "error") shape.transform = `rotate(45 ${n.x} ${n.y})`;
  const mark = draw(svg, SHAPES[n.kind], { ...shape, class: "node " + n.kind, tabindex: 0, role: "button", "aria-label": n.name });
  draw(mark, "title", {}, n.name);
  mark.addEventListener("mouseenter", () => { if (pinned === null) light(i); });
  mark.addEventListener("mouseleave", () => { if (pinned === null) light(null); });
  mark.addEventListener("focus", () => { if (pinned === null) light(i); });
  mark.addEventListener("click", (event) => { event.stopPropagation(); pin(pinned === i ? null : i); });
  mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(pinned === i ? null : i); } });
  return mark;
});
let pinned = null;
function pin(i) { pinned = i; light(i); }
svg.addEventListener("click", () => pin(null));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") pin(null); });

function light(i) {
  const near = new Set(i === null ? [] : [i, ...into[i].map((e) => e.other), ...from[i].map((e) => e.other)]);
  const lit = new Set(i === null ? [] : [...into[i], ...from[i]].map((e) => e.i));
  paths.forEach((path, k) => {
    path.classList.toggle("lit", lit.has(k));
    path.classList.toggle("dim", i !== null && !lit.has(k));
  });
  marks.forEach((mark, k) => {
    mark.classList.toggle("on", k === i);
    mark.classList.toggle("dim", i !== null && !near.has(k));
  });
  describe(i);
}
function edgeTable(parent, title, edges) {
  make(parent, "h2", {}, `${title} (${edges.length})`);
  const table = make(parent, "table");
  for (const e of edges.slice(0, 20)) {
    const row = make(table, "tr");
    make(row, "td", { class: "number " + (e.weight > 0 ? "plus" : "minus") }, (e.weight > 0 ? "+" : "−") + number(Math.abs(e.weight)));
    make(make(row, "td"), "button", { type: "button" }, nodes[e.other].name).addEventListener("click", () => pin(e.other));
  }
  if (edges.length > 20) make(parent, "p", { class: "quiet" }, `and ${edges.length - 20} weaker ones`);
}
function describe(i) {
  const box = byId("detail");
  box.replaceChildren();
  if (i === null) {
    make(box, "p", { class: "quiet" }, "Point at a node to see what makes it and what it makes; click to hold it. Blue adds, orange takes away. Circles are features, diamonds what the dictionaries leave out.");
    return;
  }
  const n = nodes[i];
  make(box, "h2", {}, n.name);
  make(box, "p", { class: "quiet" }, n.facts);
  if (n.group) make(box, "p", { class: "quiet" }, "Group: " + n.group);
  edgeTable(box, "Made by", into[i]);
  edgeTable(box, "Makes", from[i]);
}
byId("search").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase().trim();
  marks.forEach((mark, i) => mark.classList.toggle("found", wanted !== "" && (nodes[i].name + " " + nodes[i].facts).toLowerCase().includes(wanted)));
});
if (data.groups.length) {
  make(byId("groups"), "h2", {}, "Groups of features");
  const table = make(byId("groups"), "table");
  for (const group of data.groups) {
    const row = make(table, "tr");
    const cell = make(row, "td");
    make(cell, "button", { type: "button" }, group.name).addEventListener("click", () => {
      marks.forEach((mark, k) => mark.classList.toggle("found", group.members.includes(k)));
    });
    make(row, "td", { class: "number" }, String(group.members.length));
  }
}

// What was measured.
const W = 320, H = 150;
function plot(title, note, xs, ys, paint) {
  const box = byId("plots");
  make(box, "h2", {}, title);
  const s = draw(box, "svg", { width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  const low = (v) => Math.min(...v), high = (v) => Math.max(...v);
  const scale = (v, a, b) => { const l = low(v), h = high(v); return (z) => (h > l ? a + ((z - l) / (h - l)) * (b - a) : (a + b) / 2); };
  const X = scale(xs, 40, W - 10), Y = scale(ys, H - 24, 10);
  draw(s, "path", { class: "axis", d: `M40 10V${H - 24}H${W - 10}` });
  draw(s, "text", { class: "quiet", x: 36, y: 16, "text-anchor": "end" }, number(high(ys)));
  draw(s, "text", { class: "quiet", x: 36, y: H - 26, "text-anchor": "end" }, number(low(ys)));
  draw(s, "text", { class: "quiet", x: 40, y: H - 8 }, number(low(xs)));
  draw(s, "text", { class: "quiet", x: W - 10, y: H - 8, "text-anchor": "end" }, number(high(xs)));
  paint(s, X, Y);
  make(box, "p", { class: "quiet" }, note);
}
function scatter(title, note, pairs) {
  if (!pairs.length) return;
  plot(title, note, pairs.map((p) => p[0]), pairs.map((p) => p[1]), (s, X, Y) => {
    for (const [a, b] of pairs) draw(s, "circle", { class: "dot", cx: X(a), cy: Y(b), r: 3 });
  });
}
const c = data.confirmation;
if (c) {
  scatter("Edges, frozen model", `predicted (across) and measured (up) when one edge's source is taken out; ${c.frozen.text}`, c.frozen.pairs);
  scatter("Edges, live attention and norms", c.attention.text, c.attention.pairs);
  scatter("Nodes, in the model itself", c.nodes.text, c.nodes.pairs);
  if (c.curve.length > 1) plot("Faithfulness by circuit size", "blue: the most influential features; grey: random circuits of the whole circuit's size, as many features in every layer", c.sizes, [...c.curve, ...c.random, 0, 1], (s, X, Y) => {
    for (const value of c.random) draw(s, "circle", { class: "chance", cx: X(c.sizes[c.sizes.length - 1]), cy: Y(value), r: 3 });
    draw(s, "path", { class: "curve", d: "M" + c.curve.map((v, i) => `${X(c.sizes[i])} ${Y(v)}`).join("L") });
  });
  if (c.paraphrases.length) {
    make(byId("plots"), "h2", {}, "Other wordings");
    const table = make(byId("plots"), "table");
    for (const p of c.paraphrases) {
      const row = make(table, "tr");
      make(row, "td", {}, p.prompt);
      make(row, "td", { class: "number" }, `faithfulness ${number(p.faithfulness)}, same latents ${number(p.overlap)}`);
    }
  }
}
light(null);
byId("graph").scrollLeft = byId("graph").scrollWidth; // what is explained is at the end
})();
