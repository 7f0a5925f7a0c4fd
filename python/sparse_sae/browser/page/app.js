// The page: addresses, the list beside the latent, keys, dark and light.

import { server, takeToken } from "./api.js";
import { circuitPage } from "./circuit.js";
import { comparePage, overview } from "./compare.js";
import { failure, h, visible } from "./dom.js";
import { latentPage } from "./latent.js";
import { LatentList } from "./list.js";
import { livePage } from "./live.js";
import { mapPage } from "./map.js";
import { noteBox, steerBox } from "./tools.js";

const TABS = [["", "Latents"], ["live", "Live text"], ["map", "Map"], ["circuit", "Circuit"], ["compare", "Compare"]];

async function start() {
  const theme = localStorage.getItem("sparse-sae-theme");
  if (theme) document.documentElement.dataset.theme = theme;
  takeToken();
  let meta;
  try {
    meta = await server.meta();
  } catch (error) {
    document.body.replaceChildren(h("main", { class: "closed" }, h("h1", {}, "Not here"), failure(error)));
    return;
  }
  meta.stabilityKnown = Object.keys(meta.compared).length > 0;
  meta.aurocKnown = Object.keys(meta.auroc_chance).length > 0;
  const main = h("main", { id: "main", tabIndex: -1 });
  const tabs = TABS.map(([path, name]) => h("a", { href: `#/${path}` }, name));
  // Files of a set lie side by side, and the view stays while another is chosen.
  const chooser = meta.files.length > 1 && h("select", { class: "chooser", "aria-label": "Dictionary", onchange: () => { location.href = `../${encodeURIComponent(chooser.value)}/#/${document.body.dataset.view.replace(/^(list|latent)$/, "")}`; } },
    meta.files.map((f) => h("option", { value: f.name, selected: f.current }, f.name)));
  const list = new LatentList(server, meta, { changed: (query) => remember("", query) });
  document.body.replaceChildren(
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, "Skip to the content"),
    h("header", { class: "top" }, h("h1", {}, chooser || visible(meta.name.replace(/\.db$/, ""))), h("nav", { "aria-label": "Views" }, tabs),
      h("span", { class: "state", title: "Whether live text and steering work" }, meta.abilities.text ? "model loaded" : "without the model"),
      h("button", { type: "button", class: "theme", onclick: toggleTheme, "aria-label": "Dark or light" }, "◐")),
    h("div", { class: "work" }, list.element, main));

  function remember(path, query) {
    const [now] = location.hash.slice(2).split("?");
    if (now !== path) return;
    const text = new URLSearchParams(Object.entries(query).filter(([, v]) => v !== "")).toString();
    history.replaceState(null, "", `#/${path}${text ? `?${text}` : ""}`);
  }

  let stop = null;
  async function route() {
    stop?.abort();
    const own = (stop = new AbortController());
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const [view, argument] = path.split("/");
    const parameters = new URLSearchParams(query || "");
    tabs.forEach((tab, i) => (TABS[i][0] === (view === "latent" ? "" : view) ? tab.setAttribute("aria-current", "page") : tab.removeAttribute("aria-current")));
    document.body.dataset.view = view || "list";
    list.element.hidden = !["", "latent"].includes(view);
    const pages = { live: () => livePage(server, meta, parameters, (q) => remember("live", q)), map: () => mapPage(server, meta), circuit: () => circuitPage(server, meta), compare: () => comparePage(server, meta) };
    if (view === "latent") {
      try {
        const data = await server.latent(Number(argument), own.signal);
        list.mark(data.id);
        main.replaceChildren(latentPage(data, meta, {
          notes: (d) => noteBox(server, meta, d, { relabelled: (id, text) => list.relabel(id, text), listsChanged: (lists) => list.setLists(lists) }),
          steer: (d) => steerBox(server, meta, d),
        }));
      } catch (error) {
        if (error.name === "AbortError") return;
        main.replaceChildren(failure(error));
      }
    } else if (pages[view]) main.replaceChildren(pages[view]());
    else {
      document.title = visible(meta.name);
      main.replaceChildren(overview(meta));
      list.mark(null);
      if (parameters.size) list.restore(parameters);
    }
    main.scrollTop = 0;
    window.scrollTo(0, 0);
  }

  window.addEventListener("hashchange", route);
  let went = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") document.activeElement.blur();
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
    const go = { l: "#/", t: "#/live", m: "#/map", c: "#/circuit" }[event.key];
    if (went && go) location.hash = go;
    else if (event.key === "/") {
      event.preventDefault();
      if (list.element.hidden) location.hash = "#/";
      list.search.focus();
    } else if (event.key === "j" || event.key === "k") list.step(event.key === "j" ? 1 : -1);
    else if (event.key === "t") toggleTheme();
    went = event.key === "g";
  });
  if (!new URLSearchParams(location.hash.split("?")[1] || "").size || location.hash.startsWith("#/live")) list.reload();
  await route();
  document.body.dataset.ready = "1";
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("sparse-sae-theme", document.documentElement.dataset.theme);
}

start();
