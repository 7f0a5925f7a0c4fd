"""The page in a real browser: every panel, live text, steering, hostile tokens, strangers, the export offline."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae.browser import build, open_browser
from sparse_sae.browser.export import write_html
from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.sae import SAE

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = {
    5: "</script><script>alert(1)</script>",
    6: "<img src=x onerror=alert(2)>",
    7: "\u202egnp.exe",
    8: "a\0b",
    9: "⟨e2⟩",
    10: "x" * 10_000,
    11: "\ud800",
    12: "'\"&{{7*7}}",
    13: "\u200b",
}
HOOK = "blocks.1.hook_resid_post"
TEXT = "please refund my money the parcel is late"
VIEWS = ("", "latent/3", "live", "map", "circuit", "compare")


def random_sae(seed: int) -> SAE:
    rows = np.random.default_rng(seed).standard_normal((64, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params = {
        "W_enc": rows,
        "W_dec": rows.copy(),
        "b_enc": np.zeros(64, np.float32),
        "b_dec": np.zeros(32, np.float32),
    }
    params["b_enc"][2] = -1e6
    return SAE.from_rows(params, sparse_sae.TopK(k=8), metadata={"model_name": "tiny", "hook_name": HOOK})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Any) -> Path:
    """A file of a tiny model whose vocabulary is full of traps."""
    import torch

    from sparse_sae.lm import read_hooks

    directory = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    writer = StoreWriter(directory / "store", 32, "float32", model="tiny", hook=HOOK)
    for text in range(40):
        ids = rng.integers(2, len(tiny_lm.tokenizer), 24)
        with torch.inference_mode():
            rows = read_hooks(tiny_lm, [HOOK], torch.tensor(ids[None]))[HOOK][0].numpy()
        writer.append(rows, ids, np.arange(24), np.full(24, text))
    writer.finish()
    words = [f" {w}" for w in tiny_lm.tokenizer.convert_ids_to_tokens(range(len(tiny_lm.tokenizer)))]
    for i, word in HOSTILE.items():
        words[i] = word
    labels = {"even": {"positive": list(range(0, 40, 2)), "negative": list(range(1, 40, 2))}}
    more = {"others": {"seed 1": random_sae(1)}, "labels": labels}
    tiny = type(tiny_lm)(tiny_lm.model, _Renamed(tiny_lm.tokenizer, words), "tiny")
    return build(
        random_sae(0), ActivationStore(directory / "store"), directory / "tiny.db", model=tiny, **more
    )


class _Renamed:
    """A tokenizer whose pieces have other texts."""

    def __init__(self, inner: Any, words: list[str]) -> None:
        self._inner, self._words = inner, words

    def __len__(self) -> int:
        return len(self._words)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self._words[i] for i in ids]

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        return ["".join(self._words[i] for i in row) for row in rows]


@pytest.fixture(scope="module")
def address(path: Path, tiny_lm: Any) -> Iterator[str]:
    """The page's address, token included, of a server with the model."""
    import uvicorn

    from sparse_sae.browser.listening import listen
    from sparse_sae.browser.live import Live
    from sparse_sae.browser.server import application

    file = open_browser(path)
    listener = listen()
    port = listener.getsockname()[1]
    app = application(file, token="tok", hosts={f"127.0.0.1:{port}"}, live=Live(tiny_lm, random_sae(0), file))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{port}/#/?token=tok"
    server.should_exit = True
    thread.join()
    listener.close()
    file.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A tab that remembers what went wrong in it and what it loaded."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.largest = 0
        self.asked: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.wrong.append(m.text))
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("dialog", lambda d: (self.wrong.append(f"dialog {d.message}"), d.dismiss()))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("response", self._measure)

    def _measure(self, response: Any) -> None:
        self.largest = max(self.largest, int(response.headers.get("content-length", 0)))

    def open(self, address: str, view: str = "") -> Any:
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]")
        if view:
            self.page.goto(f"{address.partition('#')[0]}#/{view}")
        return self.page


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    opened: list[Watched] = []

    def make(**options: Any) -> Watched:
        opened.append(Watched(chromium, **options))
        return opened[-1]

    yield make
    for watched in opened:
        watched.context.close()
        assert watched.wrong == [], "console errors, exceptions or dialogs"
        assert watched.largest < 1 << 20


def violations(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:150]} {v['nodes'][0]['failureSummary'][:200]}" for v in found
    ]


def settle(page: Any, view: str) -> None:
    wanted = {
        "latent/3": "article.latent .context",
        "live": ".live-run .tok",
        "map": "canvas[data-ready]",
        "circuit": ".circuit",
        "compare": ".compare table",
        "": ".items a",
    }[view]
    page.wait_for_selector(wanted)


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["light", "dark", "phone"],
)
def test_every_view_is_accessible_and_fits(tab: Any, address: str, options: dict[str, Any]) -> None:
    watched = tab(**options)
    for view in VIEWS:
        page = watched.open(address, view)
        settle(page, view)
        assert violations(page) == [], f"in view {view!r}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"view {view!r} is wider than the screen"
        )


def test_every_panel(tab: Any, address: str, path: Path) -> None:
    page = tab().open(address, "latent/3")
    settle(page, "latent/3")
    titles = page.locator(".panel h3").all_inner_texts()
    assert titles == [
        "Contexts",
        "Steer",
        "Activations",
        "Logits",
        "Nearest by direction",
        "Fires together with",
        "In other dictionaries",
        "As a detector of labels",
    ]
    latent = open_browser(path).latent(3)
    assert page.locator(".context").count() == 8
    page.click(".more")
    assert page.locator(".context").count() == len(latent["contexts"][0])
    page.click("text=across the range")
    assert page.locator(".context").count() == sum(map(len, latent["contexts"][1:]))
    assert page.locator(".histogram .bars rect").count() == 100
    page.goto(page.url.replace("latent/3", "latent/2"))
    page.wait_for_selector("text=It fires on none of")
    assert page.locator(".panel h3").all_inner_texts()[0] == "Dead"


def test_hostile_tokens_are_shown_and_never_run(tab: Any, address: str, path: Path) -> None:
    file = open_browser(path)
    page = tab().open(address)
    shown = ""
    for j in range(64):
        if not set(file.latent(j)["evidence"]["tokens"]) & set(HOSTILE):
            continue
        page.goto(f"{address.partition('#')[0]}#/latent/{j}")
        page.wait_for_selector(f'article[aria-label="Latent {j}"]')
        shown += page.inner_text("main")
    for text in (
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(2)>",
        "[U+202E]gnp.exe",
        "a[U+0000]b",
        "⟨e2⟩",
        "(10,000 characters)",
        "[U+200B]",
    ):
        assert text in shown
    assert "\u202e" not in shown and "\0" not in shown
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.scripts.length") == 1
    page.fill('input[aria-label="Your label"]', "<img src=x onerror=alert(3)>\u202e")
    page.click(".note-form button")
    page.wait_for_selector("text=saved")
    page.reload()
    page.wait_for_selector("h2:has-text('<img src=x onerror=alert(3)>[U+202E]')")


def test_live_text(tab: Any, address: str) -> None:
    page = tab().open(address, "live")
    page.fill("textarea", TEXT)
    page.wait_for_selector("text=/^8 tokens in/")
    page.uncheck("text=only latents under 1 % density")
    assert page.locator(".live-run .tok").count() == 8
    assert page.locator(".live-run .tok.hot").count() == 7, "all but the first position"
    page.locator(".light").first.click()
    lit = page.locator(".live-run .tok.hot").count()
    assert 1 <= lit <= 7
    page.locator(".live-run .tok").nth(5).click()
    page.click("text=Which latents made this token?")
    page.wait_for_selector(".side .push")
    assert page.locator("th:has-text('ablation')").count() == 1
    assert "live?text=please" in page.url
    page.reload()
    page.wait_for_selector("text=/^8 tokens in/")


def test_steering_streams_and_stops(tab: Any, address: str) -> None:
    page = tab().open(address, "latent/3")
    page.wait_for_selector(".steer")
    page.uncheck(".steer input[type=checkbox]")
    page.fill(".steer textarea", TEXT)
    page.fill(".steer input[type=number]", "6")
    page.locator(".steer input[type=range]").fill("2")
    page.click(".steer .primary")
    page.wait_for_selector("text=/^6 tokens, /")
    texts = page.locator(".generated").all_inner_texts()
    assert len(texts) == 3 and all(texts)
    page.fill(".steer input[type=number]", "128")
    page.select_option(".steer select", "ablate")
    page.click(".steer .primary")
    page.wait_for_selector("text=/^[0-9]+ tokens, /")
    page.click(".steer .primary:has-text('Stop')")
    page.wait_for_selector("text=/^stopped after/")
    page.goto(f"{address.partition('#')[0]}#/live")
    page.wait_for_selector("text=/tokens in/", timeout=20_000)  # the model is free again


def test_search_order_lists_keys_and_deep_links(tab: Any, address: str, path: Path) -> None:
    file = open_browser(path)
    watched = tab()
    page = watched.open(address)
    page.keyboard.press("/")
    page.keyboard.type("shipping")
    page.wait_for_selector(f"text=/^{file.latents('shipping')['total']} latents?$/")
    assert "text=shipping" in page.url
    page.fill("input[type=search]", "")
    page.select_option('select[aria-label="Order"]', "density")
    page.select_option('select[aria-label="Which latents"]', "alive")
    first = file.latents(sort="density", kind="alive")["rows"]
    page.wait_for_selector(f'.items li:first-child a[data-latent="{first[0]["id"]}"]')
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.wait_for_selector(f'article[aria-label="Latent {first[0]["id"]}"]')
    page.keyboard.press("j")
    page.wait_for_selector(f'article[aria-label="Latent {first[1]["id"]}"]')
    page.click("text=+ list")
    page.fill('input[aria-label="Name of the list"]', "good ones")
    page.keyboard.press("Enter")
    page.wait_for_selector('.chip[aria-pressed="true"]:has-text("good ones")')
    assert file.lists() == [{"id": 1, "name": "good ones", "latents": [first[1]["id"]]}]
    page.keyboard.press("t")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") in ("dark", "light")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_selector("canvas[data-ready]")
    again = watched.open(address.partition("#")[0] + "#/latent/9")
    again.wait_for_selector('article[aria-label="Latent 9"]')
    again.emulate_media(media="print")
    assert not again.is_visible(".list") and not again.is_visible(".top") and again.is_visible(".context")


def test_a_key_waits_for_the_rows_of_the_newest_question(tab: Any, address: str, path: Path) -> None:
    file = open_browser(path)
    page = tab().open(address)

    held: list[Any] = []
    page.route("**/api/latents*", lambda route: held.append(route))
    page.select_option('select[aria-label="Order"]', "density")
    page.select_option('select[aria-label="Which latents"]', "alive")
    page.fill("input[type=search]", "shipping")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.wait_for_timeout(200)
    assert len(held) >= 2, "the press came while the answers were under way"
    page.unroute("**/api/latents*")  # which lets those pass that are held
    first = file.latents("shipping", sort="density", kind="alive")["rows"][0]["id"]
    page.wait_for_selector(f'article[aria-label="Latent {first}"]')


def test_the_map_opens_latents(tab: Any, address: str, path: Path) -> None:
    page = tab().open(address, "map")
    page.wait_for_selector("canvas[data-ready]")
    box = page.locator("canvas").bounding_box()
    x, y, _ = open_browser(path).map()[11] / 65535
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_selector("text=/^#[0-9]+ .*%/")
    page.mouse.wheel(0, -200)
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_selector("article.latent")


def test_a_circuit_is_walked(tab: Any, address: str, tmp_path: Path) -> None:
    feature = {"feature_type": "cross layer transcoder", "activation": 2.5, "clerp": "</script>"}
    target = {"feature_type": "logit", "clerp": "out", "is_target_logit": True}
    nodes = [
        {"node_id": "E_1_0", "layer": "E", "ctx_idx": 0, "feature_type": "embedding", "clerp": "<b>the"},
        {"node_id": "1_3_0", "layer": "1", "ctx_idx": 0} | feature,
        {"node_id": "2_9_1", "layer": "4", "ctx_idx": 1} | target,
    ]
    ends = (("E_1_0", "1_3_0", 1.5), ("1_3_0", "2_9_1", -0.5))
    links = [{"source": s, "target": t, "weight": w} for s, t, w in ends]
    graph = {"metadata": {"prompt_tokens": ["<b>the", " parcel"]}, "nodes": nodes, "links": links}
    (tmp_path / "g.json").write_text(json.dumps(graph))
    (tmp_path / "bad.json").write_text('{"nodes": 3}')
    page = tab().open(address, "circuit")
    page.set_input_files("input[type=file]", tmp_path / "bad.json")
    page.wait_for_selector("text=Not an attribution graph")
    page.set_input_files("input[type=file]", tmp_path / "g.json")
    page.wait_for_selector(".graph .node.chosen")
    page.click(".walk button:has-text('layer 1 #3 </script>')")
    page.wait_for_selector("text=activation 2.5")
    assert violations(page) == []
    page.click("text=Open latent 3")
    page.wait_for_selector('article[aria-label="Latent 3"]')


def test_strangers(chromium: Any, address: str, path: Path) -> None:
    """Without the token there is nothing; a page of another site neither reads nor writes."""
    base = address.partition("#")[0]
    watched = Watched(chromium)
    watched.page.goto(base)
    watched.page.wait_for_selector("text=open the address that the command printed")
    page = watched.context.new_page()
    page.goto("data:text/html,<title>evil</title>")
    ask = """async ([url, options]) => { try { const a = await fetch(url, options); return a.type + a.status; }
             catch (e) { return "refused"; } }"""
    for options in ({}, {"headers": {"X-Browser-Token": "tok"}}):
        assert page.evaluate(ask, [f"{base}api/meta", options]) == "refused"
    body = json.dumps({"latent": 1, "text": "evil", "before": ""})
    blind = {"method": "POST", "mode": "no-cors", "body": body, "headers": {"Content-Type": "text/plain"}}
    assert page.evaluate(ask, [f"{base}api/label", blind]) in ("opaque0", "refused")
    time.sleep(0.2)
    assert open_browser(path).latent(1)["note"] is None
    watched.context.close()


def test_another_file_of_a_set_is_chosen(tab: Any, path: Path) -> None:
    import uvicorn

    from sparse_sae.browser.listening import listen
    from sparse_sae.browser.server import application

    files = {name: open_browser(path) for name in ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")}
    listener = listen()
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    app = application(files, token="tok", hosts={host})
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        page = tab().open(f"http://{host}/#/?token=tok")
        assert "/of/blocks.0.hook_mlp_out/" in page.url and "tok" not in page.url
        page.goto(f"{page.url.partition('#')[0]}#/map")
        page.wait_for_selector("canvas[data-ready]")
        assert violations(page) == []
        page.select_option('select[aria-label="Dictionary"]', "blocks.1.hook_mlp_out")
        page.wait_for_url("**/of/blocks.1.hook_mlp_out/#/map")
        page.wait_for_selector("canvas[data-ready]")
        assert page.input_value('select[aria-label="Dictionary"]') == "blocks.1.hook_mlp_out"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_the_export_opens_offline(tab: Any, address: str, path: Path, tmp_path: Path) -> None:
    """With the network off it asks for nothing, and shows of each latent what the server's page shows."""
    out = tmp_path / "x.html"
    write_html(open_browser(path), out, range(64))
    watched, served = tab(), tab().open(address)
    watched.context.set_offline(True)
    page = watched.open(out.as_uri())
    assert page.locator(".items a").count() == 60
    assert violations(page) == []
    page.fill("input[type=search]", "shipping")
    page.wait_for_selector("text=/^[0-9]+ latents?$/")
    for j in (2, 5, 17, 40):
        shown = []
        for tab_of, base in ((page, out.as_uri()), (served, address.partition("#")[0])):
            tab_of.goto(f"{base}#/latent/{j}")
            tab_of.wait_for_selector(f'article[aria-label="Latent {j}"]')
            if tab_of.locator(".contexts").count():
                tab_of.click("text=across the range")
            heads = tab_of.locator(".panel h3").all_inner_texts()
            panels = tab_of.locator(".facts, .panel:not(.steer)").all_inner_texts()
            shown.append(([h for h in heads if h != "Steer"], panels))
        assert shown[0] == shown[1], f"latent {j}"
        assert len(shown[0][0]) >= 5 or j == 2
    assert page.locator(".steer").count() == 0
    assert page.evaluate("document.images.length") == 0
    assert all(re.match(r"file:", url) for url in watched.asked), watched.asked
