"""The packages that come with the extra `lm`, and what is said where they are missing."""

from __future__ import annotations

from importlib.util import find_spec


def require_extra() -> None:
    """Raise an ImportError that names the extra if torch or transformers is not installed.

    Every room of `sparse_sae.lm` calls this before its modules are imported, so that the message does not depend
    on which of them comes first. It looks for the packages and does not import them.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ImportError(
                f"sparse_sae.lm needs the package {package!r}, which is not installed. "
                'It comes with an extra: pip install "sparse-sae[lm]"'
            )
