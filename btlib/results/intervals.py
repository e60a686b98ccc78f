"""Two 95% intervals for a score: Wilson's for one run, and one by resampling for several seeds.

Taught in notebooks/06_results.ipynb.
"""

from __future__ import annotations

import math

import numpy as np


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share (0 to 1) seen on n test items; unlike mean ± 2 s.e. it is right near
    0 and 1.
    """
    if not n or math.isnan(share):
        return math.nan, math.nan
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def resampled(verdicts: np.ndarray, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """Return `samples` means of a (seeds, items) array of verdicts, both seeds and test items drawn anew with
    replacement.
    """
    rng = np.random.default_rng(seed)
    runs, items = verdicts.shape
    rows, columns = rng.integers(0, runs, (samples, runs)), rng.integers(0, items, (samples, items))
    return np.array([verdicts[np.ix_(r, c)].mean() for r, c in zip(rows, columns, strict=True)])
