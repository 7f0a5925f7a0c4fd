// Type a text: its tokens light up with the latents that are active on them.

import { append, failure, grouped, h, link, percent, round, tokenRun, visible } from "./dom.js";

const START = "The refund for my late parcel was refused, and I am very angry.";

export function livePage(source, meta, parameters, remember) {
  const page = h("section", { class: "live" }, h("h2", {}, "Live text"));
  document.title = "Live text";
  if (!meta.abilities.text) {
    append(page, [h("p", { class: "note" }, "Off: the model is not loaded. Start the command again with --model (and --sae for a file). Everything else works without it.")]);
    return page;
  }
  const input = h("textarea", { rows: 3, "aria-label": "Text", value: parameters.get("text") || START, oninput: () => later() });
  const chat = h("input", { type: "checkbox", checked: parameters.get("chat") === "1", onchange: () => later() });
  const rare = h("input", { type: "checkbox", checked: true, onchange: () => draw() });
  const first = h("input", { type: "checkbox", checked: true, onchange: () => draw() });
  const status = h("p", { class: "note", role: "status" });
  const shown = h("p", { class: "run live-run", role: "group", dir: "auto", "aria-label": "Tokens" });
  const side = h("div", { class: "side" });
  append(page, [
    h("p", { class: "note" }, "Every token is shaded by its strongest latent, relative to that latent's maximum in the store. Choose a token to see its latents, or a latent to see where it fires."),
    input,
    h("div", { class: "row" }, h("label", {}, chat, " as a chat message"), h("label", {}, rare, " only latents under 1 % density"), h("label", {}, first, " ignore the first position")),
    status, shown, side,
  ]);
  let result = null, token = -1, latent = null, timer = null, stop = null;

  function later() {
    clearTimeout(timer);
    timer = setTimeout(read, 150);
  }

  async function read() {
    stop?.abort();
    if (!input.value.trim()) return;
    const own = (stop = new AbortController());
    const began = performance.now();
    try {
      result = await source.text(input.value, chat.checked, own.signal);
      status.textContent = `${grouped(result.tokens.length)} tokens in ${Math.round(performance.now() - began)} ms`;
      token = Math.min(token, result.tokens.length - 1);
      remember({ text: input.value, chat: chat.checked ? "1" : "" });
      draw();
    } catch (error) {
      if (error.name !== "AbortError") status.replaceChildren(failure(error));
    }
  }

  const counts = (i) => result.tokens[i].usable || (i > 0 && !first.checked) || (i === 0 && !first.checked);
  const wanted = (i) => (counts(i) ? result.tokens[i].active.filter(([j]) => !rare.checked || result.latents[j].density < 0.01) : []);
  const relative = ([j, value]) => Math.min(1, Math.abs(value) / Math.max(result.latents[j].maximum, 1e-9));

  function draw() {
    if (!result) return;
    const heat = (i) => {
      const own = wanted(i);
      if (latent !== null) return relative(own.find(([j]) => j === latent) || [latent, 0]);
      return own.length ? Math.max(...own.map(relative)) : 0;
    };
    shown.replaceChildren(...tokenRun(result.tokens.map((t) => t.text), heat, { chosen: token, pick: (i) => { token = token === i ? -1 : i; draw(); } }));
    side.replaceChildren();
    if (token >= 0) tokenPanel();
    else latentsPanel();
  }

  function latentRow(j, value, where) {
    const known = result.latents[j];
    const press = h("button", { type: "button", class: "light", "aria-pressed": latent === j ? "true" : "false", title: "Show where it fires", onclick: () => { latent = latent === j ? null : j; draw(); } }, "◉");
    return h("tr", {}, h("td", {}, press), h("td", {}, link(j)), h("td", { class: "name", dir: "auto" }, visible(known.label)), h("td", { class: "value" }, round(value)), h("td", { class: "value" }, percent(relative([j, value]))), h("td", { class: "value" }, where));
  }

  const table = (rows, last) => h("table", { class: "wide" }, h("thead", {}, h("tr", {}, h("th", {}, "show"), h("th", {}, "latent"), h("th", {}, "label"), h("th", { class: "value" }, "activation"), h("th", { class: "value" }, "of its maximum"), h("th", { class: "value" }, last))), h("tbody", {}, rows));

  function latentsPanel() {
    const best = new Map();
    result.tokens.forEach((_, i) => wanted(i).forEach(([j, v]) => {
      const b = best.get(j) || { value: 0, count: 0 };
      best.set(j, { value: Math.abs(v) > Math.abs(b.value) ? v : b.value, count: b.count + 1 });
    }));
    const order = [...best].sort((a, b) => relative([b[0], b[1].value]) - relative([a[0], a[1].value])).slice(0, 40);
    if (latent !== null && !order.some(([j]) => j === latent) && best.has(latent)) order.push([latent, best.get(latent)]);
    append(side, [h("h3", {}, "Latents of the text"), table(order.map(([j, b]) => latentRow(j, b.value, grouped(b.count))), "tokens")]);
  }

  function tokenPanel() {
    const t = result.tokens[token];
    const own = wanted(token).slice().sort((a, b) => relative(b) - relative(a));
    const why = h("div", {});
    const rare = own.length < t.active.length ? `${t.active.length - own.length} more are hidden by the choices above.` : "";
    append(side, [h("h3", {}, "Token ", h("span", { class: "tok word" }, visible(t.text))),
      !t.usable && h("p", { class: "note" }, "A first position or a massive activation: SAEs are not trained on these, and its codes mean nothing."),
      meta.abilities.explain && token >= 2 && h("button", { type: "button", class: "primary", onclick: () => explain(why, token) }, "Which latents made this token?"), why,
      table(own.map(([j, v]) => latentRow(j, v, percent(result.latents[j].density))), "density"), (rare || t.more > 0) && h("p", { class: "note" }, rare, t.more > 0 && ` ${t.more} weaker ones are not sent.`)]);
  }

  async function explain(element, position) {
    element.replaceChildren(h("p", { class: "note", role: "status" }, "ablating latents one by one"));
    try {
      const found = await source.explain(result.tokens.map((t) => t.id), position);
      const most = Math.max(...found.effects.map((e) => Math.abs(e.ablation)), 1e-9);
      element.replaceChildren(
        h("p", { class: "note" }, `${visible(found.target)} is ${round(found.value)}. Ablation: how much it falls without the latent at all earlier positions; estimate: gradient × activation${found.agreement === null ? "" : ` (correlation of the two ${round(found.agreement, 2)})`}. Of the first-order effect, all ${grouped(found.active)} latents carry ${round(found.latents_estimate, 2)}, what the SAE does not reconstruct ${round(found.error_estimate, 2)}, its bias ${round(found.bias_estimate, 2)}.`),
        h("table", { class: "wide" }, h("thead", {}, h("tr", {}, h("th", {}, "latent"), h("th", {}, "label"), h("th", {}, "pushes"), h("th", { class: "value" }, "ablation"), h("th", { class: "value" }, "estimate"), h("th", {}, "most at"))),
          h("tbody", {}, found.effects.map((e) => h("tr", {}, h("td", {}, link(e.id)), h("td", { class: "name", dir: "auto" }, visible(found.latents[e.id].label)),
            h("td", {}, h("span", { class: `push ${e.ablation > 0 ? "up" : "down"}`, style: { "--share": (Math.abs(e.ablation) / most).toFixed(3) } }), e.ablation > 0 ? "up" : "down"), h("td", { class: "value" }, round(e.ablation)), h("td", { class: "value" }, round(e.estimate)),
            h("td", {}, e.places.length > 0 && h("span", { class: "tok word" }, visible(result.tokens[e.places[0][0]].text))))))));
    } catch (error) {
      element.replaceChildren(failure(error));
    }
  }

  read();
  return page;
}
