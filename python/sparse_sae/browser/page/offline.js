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

// Texts are numbers into `strings`, and a context is a window of `stream`, written once for all that show it:
// [begin, length, place of its firing, activation there, other place, activation, …].
function unpackContext([begin, length, at, value, ...others], { stream, strings }) {
  const active = [[at, value]];
  for (let i = 0; i < others.length; i += 2) active.push([others[i], others[i + 1]]);
  return { at, value, active, tokens: stream.slice(begin, begin + length).map((i) => strings[i]) };
}

function unpackLatent(packed, data) {
  const named = (rows) => rows.map((n) => ({ ...n, label: data.strings[n.label] }));
  const spelled = (rows) => rows.map(([i, value]) => [data.strings[i], value]);
  return {
    ...packed,
    contexts: packed.contexts.map((group) => group.map((c) => unpackContext(c, data))),
    nearest: named(packed.nearest),
    together: named(packed.together),
    logits: packed.logits && { ...packed.logits, promoted: spelled(packed.logits.promoted), suppressed: spelled(packed.logits.suppressed) },
  };
}

function embedded(data) {
  const { latents } = data;
  const number = { density: (r) => -r.density, rare: (r) => r.density, maximum: (r) => -r.maximum, stability: (r) => -r.stability, unstable: (r) => r.stability, auroc: (r) => -Math.abs(r.auroc - 0.5) };
  const byId = new Map(latents.map((l) => [l.id, l]));
  const texts = new Map(); // made when something is searched for, which need not happen
  const textOf = (l) => {
    if (!texts.has(l.id)) texts.set(l.id, `${l.id} ${l.note || ""} ${l.label} ${l.contexts[0].map((c) => unpackContext(c, data).tokens.join("")).join(" ")}`.toLowerCase());
    return texts.get(l.id);
  };
  return {
    async latents({ text: words = "", sort = "", offset = 0 }) {
      const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
      const found = latents.filter((l) => wanted.every((w) => textOf(l).includes(w)));
      if (sort) found.sort((a, b) => number[sort](a) - number[sort](b) || a.id - b.id);
      return { total: found.length, rows: found.slice(offset, offset + PAGE_ROWS) };
    },
    async latent(id) {
      if (!byId.has(id)) throw new Error(`Latent ${id} is not in this file, which holds ${grouped(latents.length)} chosen ones.`);
      return unpackLatent(byId.get(id), data);
    },
  };
}

async function startOffline() {
  const data = await unpack();
  const { meta } = data;
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
