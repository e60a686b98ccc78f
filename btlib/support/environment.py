"""What of the caller's environment reaches a run: each kind of variable is decided here, and nowhere else.

A run depends on its parameters, its files and the machine. What says where those are and how the machine is used is
kept; what would make another run of it is left out:

    kept      BTLIB_*, HF_*, TRANSFORMERS_*   where data and LMs lie, and whether there is a network; files are hashed
    kept      OPENAI_*, *_PROXY, SSL_*        how servers are reached
    kept      CUDA_*, OMP_*, MKL_*, PYTORCH_* which device and how many threads
    left out  LAUNCHERS                       a run is one process, whatever MPI, SLURM or torchrun left behind
    left out  JUPYTER_*, IPYTHON*, JPY_*      profiles, startup files and kernels of the caller's
    left out  PYTHON*                         start-up scripts, warnings, hash seeds; but what finds packages is kept

PYTHONPATH keeps the folders that hold no btlib and begins with the one that this btlib was imported from, so that a
run imports the library that started it. Whether the user's own packages (`pip install --user`) count is as it is here.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# What tells accelerate, PyTorch, transformers and MPI that this process is one of several.
LAUNCHERS = frozenset(
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_NAME "
    "ROLE_WORLD_SIZE MASTER_ADDR MASTER_PORT FORK_LAUNCHED SM_FRAMEWORK_PARAMS SM_HP_MP_PARAMETERS".split()
)
_LAUNCHED = (
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "TORCHELASTIC_", "CCL_"),
    *("MPI_", "PMI_", "PMIX_", "OMPI_", "PRTE_", "MV2_", "MPIR_", "HYDRA_", "HYDI_", "SLURM_", "SRUN_", "PBS_", "LSB_"),
)
_NOTEBOOKS = ("JUPYTER", "IPYTHON", "JPY_")
_PYTHON = frozenset(  # of those that begin with PYTHON: where Python and its packages are, and how files are read
    "PYTHONHOME PYTHONPLATLIBDIR PYTHONUSERBASE PYTHONUTF8 PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX".split()
)


def is_launcher(name: str) -> bool:
    """Tell whether a variable speaks of several processes that work together."""
    return name in LAUNCHERS or name.startswith(_LAUNCHED)


def reaches_a_run(name: str) -> bool:
    """Tell whether a variable of the caller's is passed on to a run."""
    if name.startswith("PYTHON") and name[6:7] != "_":
        return name in _PYTHON
    return not is_launcher(name) and not name.startswith(_NOTEBOOKS)


def run_environment(caller: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that a run's process begins with: what the caller's (default: this process's) has for
    it, and a PYTHONPATH that finds this btlib.
    """
    caller = os.environ if caller is None else caller
    kept = {name: value for name, value in caller.items() if reaches_a_run(name)}
    path = _python_path("" if sys.flags.ignore_environment else caller.get("PYTHONPATH", ""))
    if path:
        kept["PYTHONPATH"] = os.pathsep.join(path)
    if not site.ENABLE_USER_SITE:
        kept["PYTHONNOUSERSITE"] = "1"
    return kept


def _python_path(given: str) -> list[str]:
    root = Path(__file__).resolve().parents[2]
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    installed |= {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}
    others = [part for part in given.split(os.pathsep) if part and not _holds_btlib(Path(part))]
    return [*([] if root in installed else [str(root)]), *(os.path.abspath(part) for part in others)]


def _holds_btlib(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("btlib", "btlib.py"))


@contextmanager
def one_process() -> Iterator[None]:
    """Hide from libraries, for a while, that a launcher has been here: they would wait for processes that never come.

    For training in a notebook or script. Afterwards the variables are as they were.
    """
    held = {name: os.environ.pop(name) for name in list(os.environ) if is_launcher(name)}
    try:
        yield
    finally:
        for name in [name for name in os.environ if is_launcher(name)]:
            del os.environ[name]  # set by a library meanwhile
        os.environ.update(held)
