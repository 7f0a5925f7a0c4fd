// The export's main program: the same list and panels, over latents that lie in the file itself.

import { failure, grouped, h, percent, visible } from "./dom.js";
import { latentPage } from "./latent.js";
import { LatentList } from "./list.js";

const PAGE_ROWS = 60;

async function unpack() {
  const bytes = Uint8Array.from(atob(document.getElementById("data").textContent.trim()), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  return JSON.parse(text);
}

// Contexts name their tokens by number, each text once.
function spelled(latent, words) {
  for (const group of latent.contexts) for (const context of group) context.tokens = context.tokens.map((i) => words[i]);
  return latent;
}

function embedded({ latents }) {
  const number = { density: (r) => -r.density, rare: (r) => r.density, maximum: (r) => -r.maximum, stability: (r) => -r.stability, unstable: (r) => r.stability, auroc: (r) => -Math.abs(r.auroc - 0.5) };
  const text = new Map(latents.map((l) => [l.id, `${l.id} ${l.note || ""} ${l.label} ${l.contexts[0].map((c) => c.tokens.join("")).join(" ")}`.toLowerCase()]));
  const byId = new Map(latents.map((l) => [l.id, l]));
  return {
    async latents({ text: words = "", sort = "", offset = 0 }) {
      const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
      const found = latents.filter((l) => wanted.every((w) => text.get(l.id).includes(w)));
      if (sort) found.sort((a, b) => number[sort](a) - number[sort](b) || a.id - b.id);
      return { total: found.length, rows: found.slice(offset, offset + PAGE_ROWS) };
    },
    async latent(id) {
      if (!byId.has(id)) throw new Error(`Latent ${id} is not in this file, which holds ${grouped(latents.length)} chosen ones.`);
      return byId.get(id);
    },
  };
}

async function startOffline() {
  const data = await unpack();
  const { meta } = data;
  data.latents.forEach((l) => spelled(l, data.words));
  const source = embedded(data);
  meta.stabilityKnown = Object.keys(meta.compared).length > 0;
  meta.aurocKnown = Object.keys(meta.auroc_chance).length > 0;
  const main = h("main", { id: "main", tabIndex: -1 });
  const list = new LatentList(source, meta, { extras: false });
  document.body.replaceChildren(
    h("header", { class: "top" }, h("h1", {}, visible(meta.name)), h("span", { class: "state" }, `${grouped(data.latents.length)} of ${grouped(meta.d_sae)} latents · ${meta.hook_name} of ${meta.model_name} · ${grouped(meta.rows)} tokens · ${percent(meta.dead / meta.d_sae)} dead`)),
    h("div", { class: "work" }, list.element, main));
  async function route() {
    const found = location.hash.match(/^#\/latent\/(\d+)$/);
    document.body.dataset.view = found ? "latent" : "list";
    try {
      const latent = found ? Number(found[1]) : data.latents[0]?.id;
      main.replaceChildren(latentPage(await source.latent(latent), meta));
      list.mark(latent);
    } catch (error) {
      main.replaceChildren(failure(error));
    }
    main.scrollTop = 0;
  }
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", (event) => {
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
    if (event.key === "j" || event.key === "k") list.step(event.key === "j" ? 1 : -1);
  });
  await list.reload();
  await route();
  document.body.dataset.ready = "1";
}

startOffline();
