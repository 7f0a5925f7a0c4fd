// The dictionary as a map: one dot a latent, close to its cosine neighbours. Wheel or pinch zooms, dragging moves.

import { failure, grouped, h, percent, visible } from "./dom.js";

export function mapPage(source, meta) {
  document.title = "Map";
  const canvas = h("canvas", { class: "map", tabIndex: 0, role: "img", "aria-label": `Map of ${meta.d_sae} latents; the list offers the same latents as text` });
  const tip = h("p", { class: "map-tip", role: "status" }, "Point at a dot; click to open it. Wheel or + and − zoom, drag or arrows move.");
  const find = h("input", { type: "search", placeholder: "Highlight", "aria-label": "Highlight latents", oninput: () => search() });
  const page = h("section", { class: "map-page" }, h("h2", {}, "Map"),
    h("p", { class: "note" }, `Neighbours by decoder cosine attract each other. ${percent(meta.map.kept)} of every latent's 10 nearest by cosine are among its 10 nearest here (random places: ${percent(meta.map.chance)}); larger distances mean nothing. Colour: density, from rare to frequent.`),
    h("div", { class: "row" }, find, tip), canvas);
  let points = null, marked = new Set(), hover = -1, timer = null;
  const view = { x: 0.5, y: 0.5, zoom: 1 };
  const names = new Map();

  const place = (i, size) => [((points[3 * i] / 65535 - view.x) * view.zoom + 0.5) * size.width, ((points[3 * i + 1] / 65535 - view.y) * view.zoom + 0.5) * size.height];

  function draw() {
    if (!points || !canvas.isConnected) return;
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(box.width * ratio) || canvas.height !== Math.round(box.height * ratio)) {
      canvas.width = Math.round(box.width * ratio);
      canvas.height = Math.round(box.height * ratio);
    }
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const colours = ["--map-rare", "--map-some", "--map-often"].map((n) => style.getPropertyValue(n)), strong = style.getPropertyValue("--accent"), faint = style.getPropertyValue("--line");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const size = { width: canvas.width, height: canvas.height }, r = Math.max(1, Math.min(6, (140 / Math.sqrt(points.length / 3)) * Math.sqrt(view.zoom))) * ratio;
    const groups = [[], [], [], [], []];
    for (let i = 0; i < points.length / 3; i += 1) {
      const d = points[3 * i + 2];
      groups[marked.has(i) ? 4 : d === 65535 ? 3 : d > 3000 ? 0 : d > 2000 ? 1 : 2].push(i);
    }
    [3, 0, 1, 2, 4].forEach((g) => {
      pen.fillStyle = g === 4 ? strong : g === 3 ? faint : colours[g];
      pen.globalAlpha = marked.size && g !== 4 ? 0.25 : 0.85;
      const wide = g === 4 ? 2.2 * r : r;
      for (const i of groups[g]) {
        const [x, y] = place(i, size);
        if (x > -9 && y > -9 && x < size.width + 9 && y < size.height + 9) {
          pen.beginPath();
          pen.arc(x, y, wide, 0, 7);
          pen.fill();
        }
      }
    });
    pen.globalAlpha = 1;
    if (hover >= 0) {
      const [x, y] = place(hover, size);
      pen.strokeStyle = strong;
      pen.lineWidth = 2 * ratio;
      pen.beginPath();
      pen.arc(x, y, 2.5 * r + 4, 0, 7);
      pen.stroke();
    }
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    let best = -1, least = 144;
    for (let i = 0; i < points.length / 3; i += 1) {
      const [x, y] = place(i, box);
      const d = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  }

  async function show(i) {
    hover = i;
    draw();
    if (i < 0) return;
    if (!names.has(i)) {
      tip.textContent = `#${i}`;
      const row = await source.latent(i);
      names.set(i, `#${i} ${visible(row.note || row.label)} · ${percent(row.density)}`);
    }
    if (hover === i) tip.textContent = names.get(i);
  }

  async function search() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      marked = new Set();
      if (find.value.trim()) {
        const first = await source.latents({ text: find.value, offset: 0 });
        first.rows.forEach((r) => marked.add(r.id));
        tip.textContent = first.total > marked.size ? `the best ${grouped(marked.size)} of ${grouped(first.total)} found` : `${grouped(first.total)} found`;
      }
      draw();
    }, 150);
  }

  const zoom = (factor, x = 0.5, y = 0.5) => {
    const before = view.zoom;
    view.zoom = Math.min(200, Math.max(0.8, view.zoom * factor));
    view.x += (x - 0.5) * (1 / before - 1 / view.zoom);
    view.y += (y - 0.5) * (1 / before - 1 / view.zoom);
    draw();
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, { passive: false });
  const held = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, [event.clientX, event.clientY]);
    canvas.setPointerCapture(event.pointerId);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!points) return;
    const last = held.get(event.pointerId);
    if (!last) {
      show(nearest(event));
      return;
    }
    const box = canvas.getBoundingClientRect();
    if (held.size === 2) {
      const other = [...held].find(([id]) => id !== event.pointerId)[1];
      const span = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      zoom(span([event.clientX, event.clientY]) / Math.max(1, span(last)));
    } else {
      view.x -= (event.clientX - last[0]) / box.width / view.zoom;
      view.y -= (event.clientY - last[1]) / box.height / view.zoom;
      moved += Math.abs(event.clientX - last[0]) + Math.abs(event.clientY - last[1]);
      draw();
    }
    held.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointerup", (event) => {
    held.delete(event.pointerId);
    if (points && moved < 5) {
      const i = nearest(event);
      if (i >= 0) location.hash = `#/latent/${i}`;
    }
  });
  canvas.addEventListener("pointercancel", (event) => held.delete(event.pointerId));
  canvas.addEventListener("keydown", (event) => {
    const step = 0.1 / view.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.4 : 1 / 1.4);
    else if (moves[event.key]) {
      view.x += moves[event.key][0];
      view.y += moves[event.key][1];
      draw();
    } else return;
    event.preventDefault();
  });
  new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  source.map().then((loaded) => {
    points = loaded;
    canvas.dataset.ready = "1";
    draw();
  }, (error) => page.append(failure(error)));
  return page;
}
