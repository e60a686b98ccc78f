"""btlib: the thin library under the BetterTogether notebooks (arXiv 2407.10930)."""

import os
import platform

__version__ = "0.1.0"

# The same answers on every x86 CPU: PyTorch's own kernels and MKL's come in versions for each instruction set, which
# add up in another order and so round differently. These settings choose the versions for AVX2 everywhere (measured
# on Zen 5: no slower at pocket's size), and MKL's that round alike for any number of threads. They hold where btlib is
# imported before PyTorch has computed anything; a value that is set already stays. bf16 products are not concerned.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
