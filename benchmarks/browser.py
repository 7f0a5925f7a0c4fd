"""The feature browser at 32,768 latents and 500,000 tokens: its file, its page, its exports.

    python benchmarks/browser.py build [--out FILE.db]      seconds by stage, peak memory, size
    python benchmarks/browser.py page FILE.db [--sae SAE]   in Chromium: opening, latent pages, sizes of answers;
                                                            with the SAE of the file, live text on the default model
    python benchmarks/browser.py export FILE.db             1,000 latents in each format: size, seconds, opened offline
    python benchmarks/browser.py pictures FILE.db --sae SAE the pictures of docs/browser.md

Results go to benchmarks/results/browser_build.json, browser_page.json and browser_export.json. The dictionary is a
random transcoder that reads 16 numbers and writes 768: encoding, which is not measured here, costs little, and all
else is full size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import browser_build
import browser_export
import browser_page

from sparse_sae._io.documents import fill, table

DOCS = Path(__file__).parents[1] / "docs"


def _pages(result: dict[str, Any]) -> str:
    times = result["latent_page_milliseconds"]
    low, high = min(times["p95_of_rounds"]), max(times["p95_of_rounds"])
    return f"{times['p95']} ms ({low} to {high} in {len(times['p95_of_rounds'])} rounds; median {times['median']})"


def tables() -> str:
    """The numbers of docs/browser.md, from the committed results."""
    built = json.loads(browser_build.RESULT.read_text())
    pages = json.loads(browser_page.RESULT.read_text())
    large, real = (
        pages[f"{browser_build.LATENTS} latents"],
        next(p for p in pages.values() if "text_milliseconds" in p),
    )
    text = real["text_milliseconds"]
    rows = [
        ["the file, besides encoding", f"{built['seconds_besides_encoding']} s", "60 s"],
        ["memory for that, besides the codes", f"{built['peak_megabytes_besides_codes']} MB", "100 MB"],
        ["opening the page", f"{large['open_seconds']['median']} s", "1 s"],
        ["a latent's page, 95th percentile", _pages(large), "50 ms"],
        [f"the same with the model and {real['latents']:,} latents", _pages(real), "50 ms"],
        ["largest answer", f"{large['largest_answer_kilobytes']} kB", "1,000 kB"],
        [f"live text, {text['tokens']} tokens, SmolLM2-135M", f"{text['median']} ms", f"{text['target']} ms"],
    ]
    exported = json.loads(browser_export.RESULT.read_text())
    rows += [
        [
            f"{e['latents']:,} of {e['of']:,} latents as HTML",
            f"{e['html']['megabytes']} MB, opened in {e['html']['opened_offline']['seconds']} s",
            "5 MB",
        ]
        for e in exported.values()
    ]
    e = exported[f"{browser_build.LATENTS} latents"]
    rows.append(
        [
            f"{e['contexts']:,} contexts of those of {e['of']:,} as JSON; as Parquet",
            f"{e['neuronpedia']['megabytes']} MB; {e['parquet']['megabytes']} MB in {e['parquet']['seconds']} s",
            "",
        ]
    )
    said = f"{built['latents']:,} latents, {built['tokens']:,} tokens, {built['k']} active; {built['threads']} threads."
    return f"{said}\n\n{table(['', 'measured', 'target'], rows)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("build", "page", "export", "pictures"))
    parser.add_argument("file", type=Path, nargs="?", help="a browser file; `build` makes one")
    parser.add_argument("--out", type=Path, help="of `build`: keep the file there")
    parser.add_argument("--sae", type=Path, help="of `page`: the file's SAE, for live text")
    options = parser.parse_args()
    if options.what == "build":
        browser_build.measure_build(options.out)
    elif options.file is None:
        parser.error(f"{options.what}: which file?")
    elif options.what == "page":
        browser_page.measure_page(options.file, options.sae)
    elif options.what == "export":
        browser_export.measure_export(options.file)
    else:
        browser_page.take_pictures(options.file, options.sae, DOCS / "figures")
    fill(DOCS / "browser.md", {"speed": tables()})
