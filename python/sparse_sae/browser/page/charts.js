// Small charts in SVG: histograms and bars. Each has a text for readers who do not see it.

import { grouped, percent, round, vector } from "./dom.js";

export function histogram(heights, low, high, { label, log = true, mark = null, ticks = null, width = 440, height = 130 } = {}) {
  const bottom = 20, top = 6, inner = height - bottom - top;
  const scale = (v) => (log ? Math.log1p(v) : v);
  const most = Math.max(...heights.map(scale), 1e-9);
  const step = width / heights.length;
  const bars = heights.map((v, i) => {
    const tall = (inner * scale(v)) / most;
    const bar = vector("rect", { x: i * step, y: top + inner - tall, width: Math.max(1, step - 1), height: tall, rx: 1 });
    bar.append(vector("title", {}, `${round(low + (i * (high - low)) / heights.length)} – ${round(low + ((i + 1) * (high - low)) / heights.length)}: ${grouped(v)}`));
    return bar;
  });
  const axis = (ticks || [0, 0.25, 0.5, 0.75, 1].map((t) => [low + t * (high - low), round(low + t * (high - low), 2)])).map(([at, text]) => {
    const x = ((at - low) / (high - low)) * width;
    const anchor = x < 12 ? "start" : x > width - 12 ? "end" : "middle";
    return vector("text", { x, y: height - 5, "text-anchor": anchor }, text);
  });
  const line = mark === null ? [] : [vector("line", { x1: ((mark - low) / (high - low)) * width, x2: ((mark - low) / (high - low)) * width, y1: 0, y2: top + inner, class: "marker" })];
  return vector("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img", "aria-label": label },
    vector("g", { class: "bars" }, bars), vector("line", { x1: 0, x2: width, y1: top + inner + 0.5, y2: top + inner + 0.5, class: "axis" }), line, axis);
}

// A bar between 0 and 1 with, where it is known, a tick at what chance gives.
export function meter(value, chance = null, text = null) {
  const clamp = (x) => Math.min(1, Math.max(0, x));
  const svg = vector("svg", { viewBox: "0 0 100 8", class: "meter", role: "img", preserveAspectRatio: "none", "aria-label": text || `${percent(value)}${chance === null ? "" : `, chance ${percent(chance)}`}` },
    vector("rect", { x: 0, y: 2, width: 100, height: 4, rx: 2, class: "track" }),
    vector("rect", { x: 0, y: 2, width: 100 * clamp(value), height: 4, rx: 2, class: "value" }));
  if (chance !== null) svg.append(vector("rect", { x: Math.min(99, 100 * clamp(chance)), y: 0, width: 1, height: 8, class: "chance" }));
  return svg;
}
