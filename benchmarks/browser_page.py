"""Part of browser.py: the page in Chromium, its times and its pictures."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import sparse_sae
from sparse_sae._io.atomic import write_json
from sparse_sae.browser import open_browser

ROUNDS = 5  # of 100 latent pages each
RESULT = Path(__file__).parent / "results" / "browser_page.json"


def executable() -> str | None:
    """The system's Chromium."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium(path: Path, sae: Path | None) -> Iterator[tuple[Any, str, Any, bool]]:
    """Chromium, the address of a server of the file, the file, and whether the model is there."""
    import uvicorn
    from playwright.sync_api import sync_playwright

    from sparse_sae.browser.listening import listen
    from sparse_sae.browser.live import Live
    from sparse_sae.browser.server import application

    file, live = open_browser(path), None
    if sae is not None:
        from sparse_sae.lm import load_model

        live = Live(load_model(), sparse_sae.load(sae), file)
    listener = listen()
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(
            application(file, token="t", hosts={host}, live=live), log_level="warning", lifespan="off"
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
            yield browser, host, file, live is not None
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def measure_page(path: Path, sae: Path | None) -> None:
    sizes: list[int] = []
    with chromium(path, sae) as (browser, host, file, live):
        result: dict[str, Any] = {"latents": len(file), "tokens": file.meta["rows"]}
        page = browser.new_page()
        page.on("response", lambda r: sizes.append(int(r.headers.get("content-length", 0))))
        opening = []
        for _ in range(5):
            begin = time.perf_counter()
            page.goto("about:blank")
            page.goto(f"http://{host}/#/?token=t")
            page.wait_for_selector(".items a")
            opening.append(time.perf_counter() - begin)
        result["open_seconds"] = {
            "first": round(opening[0], 3),
            "median": round(float(np.median(opening)), 3),
            "target": 1,
        }
        # In the page itself: from a changed address to the panels laid out.
        timed = """async (ids) => { const times = [];
            for (const id of ids) { const begin = performance.now(); location.hash = `#/latent/${id}`;
                while (!document.querySelector(`article[aria-label="Latent ${id}"]`)) {
                    if (performance.now() - begin > 10000) throw new Error(`latent ${id} did not open in 10 s`);
                    await new Promise((r) => setTimeout(r, 1)); }
                document.body.getBoundingClientRect(); times.push(performance.now() - begin); } return times; }"""
        chosen = np.random.default_rng(0).choice(len(file), (ROUNDS, 105), replace=False).tolist()
        rounds = np.array([page.evaluate(timed, some)[5:] for some in chosen])
        result["latent_page_milliseconds"] = {
            "pages": rounds.size,
            "median": round(float(np.median(rounds)), 1),
            "p95": round(float(np.percentile(rounds, 95)), 1),
            "p95_of_rounds": np.percentile(rounds, 95, axis=1).round(1).tolist(),
            "target_p95": 50,
        }
        page.goto(f"http://{host}/#/map")
        page.wait_for_selector("canvas[data-ready]")
        if live:
            text = "My parcel is three weeks late and the shop refuses to give me a refund for the order."
            ask = """async (text) => { const times = []; let n = 0; for (let i = 0; i < 12; i += 1) {
                const begin = performance.now();
                const a = await fetch("/api/text", { method: "POST", body: JSON.stringify({ text, chat: false }),
                    headers: { "Content-Type": "application/json", "X-Browser-Token": "t" } });
                n = (await a.json()).tokens.length; times.push(performance.now() - begin); }
                return [n, times.slice(2)]; }"""
            n, times = page.evaluate(ask, text)
            result["text_milliseconds"] = {
                "tokens": n,
                "median": round(float(np.median(times)), 1),
                "target": 300,
            }
    result["largest_answer_kilobytes"] = round(max(sizes) / 1000)
    result["target_largest_kilobytes"] = 1000
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_json(RESULT, known | {f"{len(file)} latents": result})
    print(json.dumps(result, indent=2))


def take_pictures(path: Path, sae: Path, directory: Path) -> None:
    """The pictures of docs/browser.md: of the latent that a search for “refund” finds first."""
    with chromium(path, sae) as (browser, host, file, _):
        latent = file.latents("refund")["rows"][0]["id"]
        for scheme, width, height in (("light", 1280, 860), ("dark", 1280, 860), ("phone", 390, 844)):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.goto(f"http://{host}/#/?token=t")
            page.wait_for_selector(".items a")
            if scheme != "phone":
                page.fill("input[type=search]", "refund")
                page.wait_for_timeout(600)
            page.goto(f"http://{host}/#/latent/{latent}")
            page.wait_for_selector("article.latent")
            page.wait_for_timeout(300)
            page.screenshot(path=directory / f"browser-{scheme}.png")
            if scheme == "light":
                page.fill(".steer input[type=number]", "24")
                page.locator(".steer input[type=range]").fill("1.5")
                page.click(".steer .primary")
                page.wait_for_selector(".steer .primary:has-text('Generate')", timeout=60_000)
                page.locator(".steer").screenshot(path=directory / "browser-steer.png")
                page.goto(f"http://{host}/#/live")
                page.wait_for_selector(".live-run .tok")
                page.locator(".live-run .tok").nth(7).click()
                page.click(".side .primary")
                page.wait_for_selector(".side .push", timeout=30_000)
                page.screenshot(path=directory / "browser-live.png")
                page.goto(f"http://{host}/#/map")
                page.wait_for_selector("canvas[data-ready]")
                page.fill(".map-page input", "refund")
                page.wait_for_timeout(600)
                page.screenshot(path=directory / "browser-map.png")
            context.close()
