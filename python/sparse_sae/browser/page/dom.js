// Elements, numbers and texts. Everything that comes from data goes through textContent; nothing is parsed as HTML.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (name in element && !name.startsWith("aria") && !["list", "form"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

export function vector(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  append(element, children);
  return element;
}

export function percent(share) {
  const value = 100 * share;
  if (value === 0) return "0 %";
  return (value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)) + " %";
}

export const round = (x, digits = 3) => (x === null || x === undefined ? "–" : Number(x.toPrecision(digits)).toString());
export const grouped = (n) => n.toLocaleString("en-US");

// Control, zero-width and bidirectional characters are shown, not obeyed.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]/g;
const LONGEST_TOKEN = 80;

export function visible(text) {
  const whole = text.length > LONGEST_TOKEN ? text.slice(0, LONGEST_TOKEN) : text;
  const shown = whole.replace(HIDDEN, (c) => {
    if (c === "\n") return "↵";
    if (c === "\t") return "⇥";
    return `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
  });
  return text.length > LONGEST_TOKEN ? `${shown}… (${grouped(text.length)} characters)` : shown;
}

// A run of tokens; `share` gives each a heat between 0 and 1, `mark` is the token the context is about.
export function tokenRun(tokens, share, { mark = -1, title = null, pick = null, chosen = -1 } = {}) {
  return tokens.map((text, i) => {
    const heat = share(i);
    const kind = `tok${heat > 0 ? " hot" : ""}${i === mark ? " mark" : ""}${i === chosen ? " chosen" : ""}`;
    const props = { class: kind, title: title ? title(i) : null };
    if (heat > 0) props.style = { "--h": heat.toFixed(3) };
    const shown = visible(text);
    if (!pick) return h("span", props, shown);
    return h("button", { ...props, type: "button", onclick: () => pick(i), "aria-pressed": i === chosen ? "true" : "false" }, shown === "" ? "∅" : shown);
  });
}

export function link(latent, ...children) {
  return h("a", { href: `#/latent/${latent}`, class: "latent-link" }, ...(children.length ? children : [`#${latent}`]));
}

export function fact(label, value, note = null) {
  return h("div", { class: "fact" }, h("dt", {}, label), h("dd", {}, value, note && h("small", {}, " ", note)));
}

export function failure(error) {
  return h("p", { class: "failure", role: "alert" }, error.message || String(error));
}
