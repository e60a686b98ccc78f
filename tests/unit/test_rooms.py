"""The library's rooms: imports go one way, there is no circle, and no file is too long to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import btlib

ROOT = Path(btlib.__file__).parent
# Every import points to a room further left, wherever it stands: at the top, in a function, or for types only.
ROOMS = "errors presets support search lm tasks steps runs results grid pocket colab doctor __main__".split()
LONGEST = 270  # lines


def module_of(path: Path) -> str:
    """Return a file's name as a module: "lm.engine", "presets"; "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def imports(tree: ast.AST, types_too: bool = True) -> Iterator[str]:
    """Yield the modules of btlib that are imported anywhere in a file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types_too:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from imports(node, types_too)
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "btlib":  # a name of a module stands for it, another name for the module that holds it
                yield rest if rest in MODULES else rest.rpartition(".")[0]


def test_every_file_is_in_a_room():
    assert {name.partition(".")[0] for name in MODULES} - {""} == set(ROOMS)
    assert not list(imports(MODULES[""]))


def test_imports_go_one_way_from_room_to_room():
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = []
    for name, tree in MODULES.items():
        mine = name.partition(".")[0]
        for other in imports(tree):
            theirs = other.partition(".")[0]
            if theirs and theirs != mine and place[theirs] > place[mine]:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: sorted({*imports(tree, types_too=False)} - {name, ""}) for name, tree in MODULES.items()}
    circles: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circles.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in graph[name]:
                walk(other, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    assert circles == []
    assert "lm.local" in graph["lm.server"] and "lm.registry" not in graph["lm.server"]


def test_only_the_command_line_imports_the_grid():
    found = {name for name, tree in MODULES.items() if any(x.startswith("grid") for x in imports(tree))}
    assert {name for name in found if not name.startswith("grid.")} == {"__main__"}


def test_no_file_is_longer_than_a_reader_can_hold():
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > LONGEST} == {}


@pytest.mark.parametrize("room", ["lm", "steps", "runs"])
def test_a_rooms_everyday_names_are_where_it_says(room):
    loaded = import_module(f"btlib.{room}")
    assert loaded.__all__ and all(getattr(loaded, name) is not None for name in loaded.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loaded.nothing
