"""Part of browser.py: chosen latents in every format, and the HTML file opened with the network off."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from browser_page import executable
from pyarrow.parquet import read_table

from sparse_sae._io.atomic import write_json
from sparse_sae.browser import open_browser
from sparse_sae.browser.export import write_html
from sparse_sae.browser.neuronpedia import write_neuronpedia
from sparse_sae.browser.parquet import write_parquet

CHOSEN = 1000
RESULT = Path(__file__).parent / "results" / "browser_export.json"


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size


def opened_offline(path: Path, latent: int) -> dict[str, Any]:
    """Seconds until the first latent is there, and milliseconds to a found one; asserts that nothing is requested."""
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.on("request", lambda r: asked.append(r.url))
        seconds = []
        for _ in range(5):
            page.goto("about:blank")
            begin = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("body[data-ready] article.latent")
            seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        page.goto(f"{path.as_uri()}#/latent/{latent}")
        page.wait_for_selector(f'article[aria-label="Latent {latent}"]')
        found = time.perf_counter() - begin
        browser.close()
    assert all(url.startswith(("file:", "about:")) for url in asked), asked
    return {"seconds": round(float(np.median(seconds)), 2), "latent_milliseconds": round(1000 * found)}


def measure_export(path: Path) -> None:
    file = open_browser(path)
    chosen = np.sort(
        np.random.default_rng(0).choice(len(file), min(CHOSEN, len(file)), replace=False)
    ).tolist()
    result: dict[str, Any] = {"latents": len(chosen), "of": len(file), "tokens": file.meta["rows"]}
    with tempfile.TemporaryDirectory() as scratch:
        for name, write in (
            ("x.html", write_html),
            ("neuronpedia", write_neuronpedia),
            ("parquet", write_parquet),
        ):
            out, begin = Path(scratch) / name, time.perf_counter()
            write(file, out, chosen)
            result[name.removeprefix("x.")] = {
                "seconds": round(time.perf_counter() - begin, 1),
                "megabytes": round(_bytes(out) / 1e6, 2),
            }
        result["html"]["target_megabytes"] = 5
        result["html"]["opened_offline"] = opened_offline(Path(scratch) / "x.html", chosen[-1])
        contexts = read_table(
            Path(scratch) / "parquet" / "activations.parquet", columns=["maxValue"]
        ).num_rows
        result["contexts"] = contexts
        assert contexts == sum(len(group) for j in chosen for group in file.latent(j)["contexts"])
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_json(RESULT, known | {f"{len(file)} latents": result})
    print(json.dumps(result, indent=2))
