"""A notebook opened in Colab: fetch the repository, install what Colab lacks, and say which GPU there is.

The first code cell of each notebook (`cell`) clones the repository and runs this file, which is why it stands on the
standard library alone. Colab's own torch, numpy and kernel stay as they are: they are not asked for, and pinned for
what is. `python -m btlib.colab` writes the cell and the badge into all notebooks; the repository's address stands in
`REPOSITORY`, and nowhere else.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = ""  # <owner>/<name> on GitHub; empty until the repository has a public address

# What Colab brings and needs as it is: torch fits its GPU's driver, the rest its kernel and its page.
KEPT = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "pandas",
    "ipykernel",
    "ipython",
    "notebook",
    "tornado",
    "requests",
)
NOT_ASKED = ("torch", "numpy", "jupyterlab", "ipykernel", "ipywidgets")  # of btlib's dependencies, on Colab
BADGE_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def loaded() -> set[str]:
    """Return the names of the packages of which this session has imported anything."""
    modules = {name.partition(".")[0] for name in list(sys.modules)}
    return {
        name
        for module, names in importlib.metadata.packages_distributions().items()
        if module in modules
        for name in names
    }


def wanted(pyproject: Path) -> list[str]:
    """Return btlib's dependencies without those that Colab has to keep."""
    with pyproject.open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    return [need for need in dependencies if re.split(r"[^\w-]", need, maxsplit=1)[0] not in NOT_ASKED]


def install(root: Path, run: Callable[..., subprocess.CompletedProcess] = subprocess.run) -> None:
    """Install btlib from a clone; RuntimeError with pip's last lines where that fails, or names what must be loaded
    anew: packages that Colab keeps, and those that the session has imported in another version than is there now.
    """
    before = installed(KEPT)
    # What was imported stays as it was until a restart, however often this cell runs: so the first look counts.
    seen: dict[str, str] = vars(sys).setdefault("_btlib_imported", {})
    seen |= installed(loaded()) | seen
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("".join(f"{name}=={version}\n" for name, version in before.items()))
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    for arguments in (["-c", file.name, *wanted(root / "pyproject.toml")], ["--no-deps", "-e", str(root)]):
        done = run([*pip, *arguments], capture_output=True, text=True)
        if done.returncode:
            last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise RuntimeError(f"btlib could not be installed; pip says:\n{last}")
    importlib.invalidate_caches()
    watched = before | seen
    changed = sorted(name for name, version in installed(watched).items() if watched[name] != version)
    if changed:
        raise RuntimeError(
            f"pip changed {', '.join(changed)}, of which this session holds another version; choose Runtime > Restart "
            "session, and run this cell again"
        )


def gpu_line() -> str:
    """Say which GPU the runtime has, or how to get one."""
    try:
        import torch

        if torch.cuda.is_available():
            gib = torch.cuda.get_device_properties(0).total_memory / 2**30
            return f"GPU: {torch.cuda.get_device_name(0)}, {gib:.0f} GiB; preset colab is made for 16"
    except ImportError:
        pass
    return "no GPU: the notebooks run with the embedded LM; for others choose Runtime > Change runtime type > T4 GPU"


def cell(repository: str = REPOSITORY) -> str:
    """Return the source of the cell: a no-op outside Colab. Without an address it needs a clone around the notebook."""
    fetch = [
        '    if not os.path.exists("../btlib"):',
        f"        !git clone -q --depth 1 https://github.com/{repository} bettertogether",
        "        %cd -q bettertogether/notebooks",
    ]
    lines = [
        "import os",
        "import sys",
        "",
        'if "google.colab" in sys.modules:  # a no-op elsewhere',
        *(fetch if repository else []),
        "    %run ../btlib/colab.py  # installs btlib, leaves the preinstalled torch and numpy alone, names the GPU",
        '    sys.path.insert(0, "..")',
    ]
    return "\n".join(lines if repository else lines[1:])


def badge(notebook: str, repository: str = REPOSITORY) -> str:
    """Return the Markdown of a notebook's badge; "" as long as there is no address."""
    page = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{notebook}"
    return f"[![Open In Colab]({BADGE_IMAGE})]({page})" if repository else ""


def write(path: Path, repository: str = REPOSITORY) -> bool:
    """Put cell and badge into a notebook (the badge under its title) and tell whether that changed it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title, first = notebook["cells"][0], next(c for c in notebook["cells"] if c["cell_type"] == "code")
    lines = "".join(title["source"]).split("\n")
    lines = [lines[0], *(line for line in lines[1:] if BADGE_IMAGE not in line)]
    while len(lines) > 1 and not lines[1].strip():
        del lines[1]
    shown = badge(path.name, repository)
    texts = ["\n".join([lines[0], *(["", shown] if shown else []), "", *lines[1:]]), cell(repository)]
    changed = False
    for found, text in zip((title, first), texts, strict=True):
        if "".join(found["source"]) != text:
            found["source"], changed = text.splitlines(keepends=True), True
    if changed:
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed


if __name__ == "__main__":
    top = Path(__file__).resolve().parent.parent
    if "google.colab" in sys.modules:
        install(top)
        print(gpu_line())
    else:
        for source in sorted((top / "notebooks").glob("[0-9]*.ipynb")):
            print(f"{source.name}: {'written' if write(source) else 'as it was'}")
