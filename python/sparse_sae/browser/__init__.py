"""A browser for the latents of an SAE: one file, one local page.

- `build`: one SQLite file from an SAE and a store of activations, with the model's logits where it is given.
- `build_set`: such a file for each dictionary of a set.
- `open_browser`: such a file from Python; what it gives shows itself in a notebook.

The page is `sparse-sae browse FILE`; it comes with the extra `browser`.
"""

from sparse_sae.browser.building import build
from sparse_sae.browser.file import BrowserFile, open_browser
from sparse_sae.browser.sets import build_set

__all__ = ["BrowserFile", "build", "build_set", "open_browser"]
