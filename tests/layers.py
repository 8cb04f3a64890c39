"""What the project's modules import, by their syntax."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = sorted((ROOT / "harness").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def imports(path: Path, top_level_only: bool = False) -> frozenset[str]:
    """Dotted names that a file imports: `from a.b import c` gives `a.b` and `a.b.c`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if not top_level_only else iter(tree.body)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def closure(*start: str) -> set[str]:
    """Names of the modules of ours that the given ones import, directly or not, themselves included."""
    known = modules()
    seen: set[str] = set()
    queue = list(start)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        queue += imports(known[name]) & known.keys() - {"harness"}
    packages = {name for name in seen if known[name].name == "__init__.py"}
    return seen - packages
