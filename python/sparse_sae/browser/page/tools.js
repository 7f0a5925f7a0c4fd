// What one does with a latent: name it, put it on lists, steer with it.

import { append, failure, grouped, h, round, visible } from "./dom.js";

export function noteBox(source, meta, data, { relabelled, listsChanged }) {
  const status = h("span", { class: "status", role: "status" });
  const input = h("input", { type: "text", value: data.note || "", maxLength: 500, placeholder: "Your label", "aria-label": "Your label", dir: "auto" });
  const save = async (event) => {
    event?.preventDefault();
    if (input.value.trim() === (data.note || "")) return;
    try {
      const { text } = await source.setLabel(data.id, input.value, data.note || "");
      data.note = text || null;
      status.textContent = text ? "saved" : "removed";
      relabelled(data.id, text);
    } catch (error) {
      status.textContent = error.message;
    }
  };
  const lists = h("div", { class: "lists" });
  const draw = () => {
    lists.replaceChildren(...meta.lists.map((list) => {
      const on = list.latents.includes(data.id);
      return h("button", { type: "button", class: "chip", "aria-pressed": on ? "true" : "false", onclick: () => change({ action: on ? "remove" : "add", list: list.id, latent: data.id }) }, list.name);
    }), h("button", { type: "button", class: "chip new", onclick: create }, "+ list"));
  };
  const change = async (body) => {
    try {
      meta.lists = (await source.changeList(body)).lists;
      listsChanged(meta.lists);
      draw();
      status.textContent = "";
    } catch (error) {
      status.textContent = error.message;
    }
  };
  const create = () => {
    const name = h("input", { type: "text", placeholder: "Name of the list", "aria-label": "Name of the list", maxLength: 500 });
    const form = h("form", { class: "new-list", onsubmit: async (event) => {
      event.preventDefault();
      try {
        const made = await source.changeList({ action: "create", name: name.value });
        await change({ action: "add", list: made.list, latent: data.id });
      } catch (error) {
        status.textContent = error.message;
      }
    } }, name, h("button", { type: "submit" }, "create"));
    lists.append(form);
    name.focus();
  };
  draw();
  return h("div", { class: "notes" }, h("form", { class: "note-form", onsubmit: save }, input, h("button", { type: "submit" }, "save")), lists, status);
}

const REMEMBERED = { text: "My parcel is three weeks late and I want my money back. Can I get a refund?", chat: true, tokens: 32 };

export function steerBox(source, meta, data) {
  const able = meta.abilities;
  if (!able.steer) {
    return h("section", { class: "panel wide off" }, h("h3", {}, "Steer"),
      h("p", { class: "note" }, "Off: the model is not loaded. Start the command again with --model (and --sae for a file)."));
  }
  const top = Math.max(data.maximum, 1e-3);
  const prompt = h("textarea", { rows: 2, "aria-label": "Prompt", value: REMEMBERED.text });
  const chat = h("input", { type: "checkbox", checked: REMEMBERED.chat });
  const count = h("input", { type: "number", min: 1, max: 128, value: REMEMBERED.tokens, "aria-label": "New tokens" });
  const mode = h("select", { "aria-label": "What to do with the latent", onchange: () => redraw() }, h("option", { value: "add" }, "add it"), able.ablate && h("option", { value: "ablate" }, "ablate it"));
  const slider = h("input", { type: "range", min: -2, max: 2, step: 0.05, value: 1, "aria-label": "Strength", oninput: () => redraw() });
  const shown = h("output", { class: "strength" });
  const status = h("p", { class: "note", role: "status" });
  const names = ["unedited", "steered", "random direction"];
  const outputs = names.map((n) => h("p", { class: "generated", role: "group", dir: "auto", "aria-label": n, tabIndex: 0 }));
  const strength = () => (mode.value === "add" ? Number(slider.value) * top : Math.abs(Number(slider.value)));
  const redraw = () => {
    slider.min = mode.value === "add" ? -2 : 0;
    shown.textContent = mode.value === "add" ? `${round(strength())}: ${round(Number(slider.value), 2)} × its maximum here` : `${round(strength(), 2)} × its activation taken out`;
  };
  let stop = null;
  const button = h("button", { type: "submit", class: "primary" }, "Generate");
  const run = async (event) => {
    event.preventDefault();
    if (stop) {
      stop.abort();
      return;
    }
    Object.assign(REMEMBERED, { text: prompt.value, chat: chat.checked, tokens: Number(count.value) });
    stop = new AbortController();
    button.textContent = "Stop";
    outputs.forEach((o) => o.replaceChildren());
    status.textContent = "reading the prompt";
    const began = performance.now();
    let steps = 0;
    try {
      const body = { text: prompt.value, chat: chat.checked, latent: data.id, mode: mode.value, strength: strength(), tokens: Number(count.value) };
      await source.steer(body, ({ texts }) => {
        steps += 1;
        texts.forEach((text, i) => differing(outputs[i], text, texts[0], i > 0));
        status.textContent = `${steps} tokens, ${round(steps / ((performance.now() - began) / 1000), 2)} a second, greedy decoding`;
      }, stop.signal);
    } catch (error) {
      if (error.name === "AbortError") status.textContent = `stopped after ${grouped(steps)} tokens`;
      else status.replaceChildren(failure(error));
    } finally {
      stop = null;
      button.textContent = "Generate";
    }
  };
  redraw();
  const control = mode.value === "add" ? "a random direction of the same length" : "a random direction";
  return h("section", { class: "panel wide steer" }, h("h3", {}, "Steer"),
    h("p", { class: "note" }, `The same prompt three times: unedited, with this latent, and with ${control}. If random does as much, the latent is not what did it.`),
    h("form", { onsubmit: run }, prompt,
      h("div", { class: "row" }, h("label", {}, chat, " chat"), mode, h("label", { class: "grow" }, slider), shown, h("label", {}, count, " tokens"), button)),
    h("div", { class: "three" }, names.map((n, i) => h("div", {}, h("h4", {}, n), outputs[i]))), status);
}

// A text with what differs from the unedited one underlined, from the first difference on.
function differing(element, text, plain, compare) {
  let same = 0;
  if (compare) while (same < text.length && same < plain.length && text[same] === plain[same]) same += 1;
  const shown = (s) => s.split("\n").map(longVisible).join("\n");
  element.replaceChildren();
  if (!compare) append(element, [shown(text)]);
  else append(element, [shown(text.slice(0, same)), same < text.length && h("mark", {}, shown(text.slice(same)))]);
}

const longVisible = (line) => line.match(/.{1,60}/gsu)?.map(visible).join("") ?? "";
