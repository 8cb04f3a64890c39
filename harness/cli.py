"""`python -m harness VERB …`: finds the verb's module, imports only that, and turns a `HarnessError` into a message.

A verb's function either takes the rest of the command line (`main(argv)`, with an argument parser of its own) or the
named words listed in its `Verb`. `python -m harness VERB --help` shows what a verb takes.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from attrs import frozen

from harness.errors import UNFORESEEN, HarnessError


@frozen
class Verb:
    """Where a verb lives (`module:function`), what it does, and its arguments if it has no parser of its own."""

    entry: str
    summary: str
    words: tuple[str, ...] | None = None


GROUPS: dict[str, dict[str, Verb]] = {
    "look": {
        "explain": Verb(
            "harness.config.explain:main", "say in words and numbers what a target or configuration will do"
        ),
        "plan": Verb("harness.planning.plan:main", "memory, compute and time of a run, before it is launched"),
        "doctor": Verb("harness.planning.doctor:main", "check this machine and checkout, each finding with a remedy"),
        "translate": Verb(
            "harness.config.foreign.verb:main", "Self-Forcing, LongLive or Self-Forcing-Plus YAML → ours, key by key"
        ),
        "wandb": Verb("harness.tracking.verbs:main", "upload runs to W&B and check that they arrived; status; report"),
        "verdicts": Verb("harness.comparison.compare:print_verdicts", "print the verdict of every experiment", ()),
        "verify": Verb(
            "harness.reference.verify:main", "hash again what results claim to come from, and list every mismatch"
        ),
        "verify-data": Verb("harness.data.shards:main", "check every shard against its hash, and what encoded it"),
    },
    "run everything": {
        "repro": Verb("harness.repro:main", "run all stale stages, several at once, then say what was found"),
    },
    "run one stage (what the stages in dvc.yaml call)": {
        "prepare": Verb("harness.data.prepare:main", "source clips → data/clips"),
        "encoders": Verb("harness.data.encoders:main", "VAE, text encoder, tokenizer → checkpoints/encoders"),
        "encode": Verb("harness.data.encode:main", "data/clips → data/encoded (latents and text vectors)"),
        "evaluators": Verb("harness.evaluation.fit_evaluators:main", "feature networks → checkpoints/evaluators"),
        "evaluate": Verb(
            "harness.evaluation.run:main",
            "evaluation card and clips of a TARGET → results/TARGET, or of runs/NAME",
            ("target",),
        ),
        "compare": Verb(
            "harness.reference.compare_to:main",
            "verdicts of an experiment → comparisons/EXPERIMENT; RUN --to REFERENCE: why is my run different?",
        ),
        "report": Verb("harness.comparison.report:main", "comparisons → reports/index.html", ()),
    },
    "use a trained model": {
        "prompts": Verb("harness.data.prompts:main", "encode a list of prompts, for distillation without clips"),
        "sample": Verb("harness.evaluation.sample:main", "make videos from captions with a run's generator"),
        "interactive": Verb(
            "harness.interactive.verb:main", "a video that goes on and does what one types; --web: on a local page"
        ),
        "import": Verb("harness.formats.importing:main", "a Wan, Self-Forcing or LongLive checkpoint → a model folder"),
        "export": Verb("harness.formats.exporting:main", "a model → diffusers, Wan, ComfyUI or Self-Forcing's format"),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}

_EXAMPLES = """\
training:
  python harness/train.py --target TARGET --wait        train a declared target (what the stages call)
  composer harness/train.py CONFIG.yaml key.sub=value   an ad hoc run; `composer -n 2 …` for two processes

examples:
  python -m harness explain two_stage_vs_one_stage/two_stage/seed0
  python -m harness explain configs/dmd.yaml dmd.cfg_scale=3
  python -m harness plan wan2_1-t2v-14b --method dmd --gpus 8 --memory 80GB
  python -m harness repro --jobs 2
  python -m harness compare my-run --to causal_vs_bidirectional/causal
  python -m harness sample teacher --help

A target is `teacher`, `causal_sft/seed<N>` or `<experiment>/<arm>/seed<N>`; its files are under results/TARGET and
checkpoints/TARGET. The verbs that take a target also take an ad hoc run, as `runs/NAME`. Every verb has --help.
"""


def help_text() -> str:
    """The whole help of `python -m harness`."""
    lines = ["usage: python -m harness VERB [arguments]", ""]
    for title, verbs in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<12} {verb.summary}" for name, verb in verbs.items()), ""]
    return "\n".join(lines) + "\n" + _EXAMPLES


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0, 2 for a problem that the message explains, or the verb's own."""
    parser = argparse.ArgumentParser(prog="python -m harness", add_help=False)
    parser.add_argument("verb", nargs="?")
    parser.add_argument("-h", "--help", action="store_true")
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = parser.parse_known_args(arguments[:1])[0]
    if given.help or given.verb in (None, "help"):
        print(help_text(), end="")
        return 0
    if given.verb not in VERBS:
        close = difflib.get_close_matches(given.verb, VERBS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(VERBS)}"
        print(f'there is no verb "{given.verb}"; {hint} (`python -m harness --help`)', file=sys.stderr)
        return 2
    return run_verb(given.verb, VERBS[given.verb], arguments[1:])


def run_verb(name: str, verb: Verb, argv: Sequence[str]) -> int:
    """Import and call a verb; user-caused problems become one message on standard error and status 2."""
    try:
        arguments: Sequence[object] = [argv]
        if verb.words is not None:
            parser = argparse.ArgumentParser(prog=f"python -m harness {name}", description=verb.summary)
            for word in verb.words:
                parser.add_argument(word)
            arguments = list(vars(parser.parse_args(argv)).values())
        module, _, function = verb.entry.partition(":")
        status = getattr(importlib.import_module(module), function)(*arguments)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say
        return 0
    except Exception:
        traceback.print_exc()
        print(UNFORESEEN, file=sys.stderr)
        return 1
