// The server of this page. Its token comes in the address that the command prints, and stays in this browser.

const KEY = "sparse-sae-token";

export function takeToken() {
  const [path, query] = location.hash.slice(1).split("?");
  const given = new URLSearchParams(query || "");
  const token = given.get("token");
  if (token) {
    localStorage.setItem(KEY, token);
    given.delete("token");
    const rest = given.toString();
    history.replaceState(null, "", `#${path || "/"}${rest ? `?${rest}` : ""}`);
  }
}

async function ask(path, { body = null, signal = null } = {}) {
  const headers = { "X-Browser-Token": localStorage.getItem(KEY) || "" };
  const options = { headers, signal };
  if (body !== null) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `sparse-sae browse` still running?");
  }
  if (!answer.ok) {
    let reason = answer.statusText;
    try {
      reason = (await answer.json()).error || reason;
    } catch {
      // no JSON, then the status has to do
    }
    const error = new Error(reason);
    error.status = answer.status;
    throw error;
  }
  return answer;
}

const fetched = async (path, options) => (await ask(path, options)).json();

export const server = {
  meta: () => fetched("api/meta"),
  latents: (query, signal) => fetched(`api/latents?${new URLSearchParams(query)}`, { signal }),
  latent: (id, signal) => fetched(`api/latent/${id}`, { signal }),
  map: async () => new Uint16Array(await (await ask("api/map")).arrayBuffer()),
  graph: () => fetched("api/graph"),
  setLabel: (latent, text, before) => fetched("api/label", { body: { latent, text, before } }),
  changeList: (body) => fetched("api/list", { body }),
  text: (text, chat, signal) => fetched("api/text", { body: { text, chat }, signal }),
  explain: (ids, position, signal) => fetched("api/explain", { body: { ids, position }, signal }),
  // Calls `step` with each event of a generation; aborting the signal stops the model.
  async steer(body, step, signal) {
    const answer = await ask("api/steer", { body, signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = JSON.parse(event.slice("data: ".length));
        if (data.error) throw new Error(data.error);
        step(data);
      }
    }
  },
};
