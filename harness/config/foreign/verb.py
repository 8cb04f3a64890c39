"""`python -m harness translate FILE.yaml`: a configuration of another code base in this project's terms."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.documents import read_yaml
from harness.config.explain import explain
from harness.config.foreign.dialects import NAMES, dialect_called
from harness.config.foreign.page import configuration, page
from harness.config.foreign.translate import Translation, translate
from harness.config.load import load_params, resolve_values
from harness.errors import HarnessError
from harness.io import atomic_write_text


def check(translation: Translation, where: str, params: str | Path = "params.yaml") -> None:
    """Load what was translated as strictly as any configuration, and explain it.

    Raises:
        HarnessError: its settings do not fit each other, or the preset's data.
    """
    try:
        config = resolve_values(translation.document, where, (), params)
    except HarnessError as error:
        raise HarnessError(f"{error}\nThis is what {where} asks for; change it there") from error
    explain(config, load_params(params, config.preset).preset)


def main(argv: Sequence[str] | None = None) -> int:
    """Translate a configuration of Self-Forcing, LongLive or Self-Forcing-Plus, key by key."""
    parser = argparse.ArgumentParser(prog="python -m harness translate", description=main.__doc__)
    parser.add_argument("file", help="their YAML file")
    parser.add_argument("--from", dest="dialect", choices=NAMES, help="whose it is (default: told by its keys)")
    parser.add_argument("--defaults", metavar="FILE", help="their default_config.yaml, over which the file is laid")
    parser.add_argument("--out", metavar="CONFIG.yaml", help="write the configuration there (default: print it)")
    parser.add_argument("--strict", action="store_true", help="a key that is not known is a failure (status 1)")
    parser.add_argument("--params", default="params.yaml", help="file with the presets")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out) if arguments.out else None
    if out is not None and (out.exists() or out.suffix not in (".yaml", ".yml")):
        expected = "exists; delete it or choose another name" if out.exists() else "expected a name that ends in .yaml"
        raise HarnessError(f"--out {out}: {expected}")
    names = load_params(arguments.params).raw["presets"]
    translation = translate(
        read_yaml(arguments.file),
        {name: load_params(arguments.params, name).preset for name in names},
        where=arguments.file,
        dialect=dialect_called(arguments.dialect) if arguments.dialect else None,
        defaults=read_yaml(arguments.defaults) if arguments.defaults else None,
    )
    print(page(translation, arguments.file))
    if arguments.strict and translation.unknown:
        print(f"error: {arguments.file}: {len(translation.unknown)} unknown keys; nothing is written", file=sys.stderr)
        return 1
    check(translation, arguments.file, arguments.params)
    text = configuration(translation, arguments.file)
    if out is None:
        print(text, end="")
    else:
        atomic_write_text(out, text)
        print(f"{out}: written; `python -m harness explain {out}` says what it will do", file=sys.stderr)
    return 0
