import ast
import re
import sys

import pytest
from layers import ROOT, closure, imports, modules

# Lower layers do not know upper ones. A module may import its own layer and all below.
LAYERS = [
    {"errors", "io", "machine", "seeding"},
    {"config", "diffusion"},
    {"data", "models", "formats", "tracking"},
    {"rollout"},
    {"pipeline"},
    {"methods", "evaluation"},
    {"algorithms", "callbacks"},
    {"training", "train"},
    {"cli", "comparison", "interactive", "planning", "reference", "repro", "stages", "__main__"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
ONLY = {  # beyond the ranks
    "config": {"errors", "io", "config"},
    "diffusion": {"errors", "io", "diffusion"},
    "comparison": {"errors", "io", "config", "comparison", "tracking"},
    "tracking": {"errors", "io", "config", "tracking"},
    "stages": {"errors", "io"},
    "repro": {"errors", "io", "stages", "comparison"},
    "cli": {"errors"},
}
WITHOUT_TORCH = tuple(
    f"harness.{name}"
    for name in ("cli", "io", "stages", "repro", "comparison", "config", "planning.doctor", "tracking")
)
MODULES = modules()


def part(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_no_module_reaches_up(name):
    own = part(name)
    assert own in RANK, f"{own} has no layer: give it one here"
    for other in imports(MODULES[name]) & MODULES.keys() - {"harness"}:
        assert RANK[part(other)] <= RANK[own], f"{name} imports {other}, a layer above"
        assert part(other) in ONLY.get(own, RANK), f"{name} must not import {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(WITHOUT_TORCH)])
def test_what_must_be_instant_never_imports_torch(name):
    reached = {imported.split(".")[0] for module in closure(name) | {name} for imported in imports(MODULES[module])}
    assert not reached & {"torch", "composer", "diffusers", "transformers", "streaming"}


def test_no_module_hides_a_standard_one_when_the_folder_comes_first_on_the_path():
    names = {path.stem for path in (ROOT / "harness").iterdir()}
    loaded_at_start = {"io"}
    third_party = {"datasets", "wandb", "evaluate", "torch", "streaming", "composer", "dvc", "yaml"}
    assert not names & (set(sys.stdlib_module_names) | third_party) - loaded_at_start


def calls(tree: ast.AST) -> list[str]:
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_house_rules(name):
    text = MODULES[name].read_text()
    for call in calls(ast.parse(text)):
        if call.startswith("torch.load("):
            assert "weights_only=True" in call, f"{name}: {call}"
        assert not re.match(r"(pickle|dill)\.loads?\(", call), f"{name}: {call}"
        assert not re.fullmatch(r"\S+\.cuda\(.*\)", call), f"{name}: {call}"
    if name.split(".")[1:2] in (["diffusion"], ["models"], ["rollout"], ["methods"]):
        assert "get_rank" not in text, name
    assert len(text.splitlines()) <= 400, f"{name} is too long"
