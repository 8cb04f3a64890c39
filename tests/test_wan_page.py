"""Every command on docs/wan.md, and on the pages beside it, is one that the command line takes."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from harness.cli import VERBS
from harness.config.load import load_params

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/wan.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if not {"[", "|"} & set(line)  # else it is a synopsis
]
VERB_CALLS = [words[words.index("harness") + 1 :] for words in COMMANDS if "harness" in words and "--help" not in words]


class Parsed(Exception):
    """The arguments were understood."""


@pytest.mark.parametrize("words", VERB_CALLS, ids=" ".join)
def test_a_verb_takes_its_arguments(words, monkeypatch):
    name, *arguments = words
    verb = VERBS[name]
    if verb.words is not None:
        assert len(arguments) == len(verb.words)
        return

    def parse(parser: argparse.ArgumentParser, argv=None, namespace=None, original=argparse.ArgumentParser.parse_args):
        original(parser, argv, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_intermixed_args", parse)
    module, _, function = verb.entry.partition(":")
    with pytest.raises(Parsed):
        getattr(importlib.import_module(module), function)(arguments)


def test_training_commands():
    from harness.train import parse

    calls = [words[words.index("harness/train.py") + 1 :] for words in COMMANDS if "harness/train.py" in words]
    assert len(calls) >= 4
    for words in calls:
        arguments = parse(words)
        assert arguments.target or (ROOT / arguments.config).is_file()


def test_the_page_names_every_wan_preset_and_files_that_exist():
    presets = [name for name in load_params(ROOT / "params.yaml").raw["presets"] if name.startswith("wan")]
    for name in presets:
        assert name in PAGE or name.rsplit("-", 1)[0] in PAGE
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link
