"""btlib: the thin library under the BetterTogether notebooks (arXiv 2407.10930)."""

__version__ = "0.1.0"
