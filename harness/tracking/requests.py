"""What is to be mirrored: a request per W&B run, made from what a stage leaves on disk, and nothing but files after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, frozen

from harness.config.load import split_target
from harness.config.runs import AD_HOC, evaluation_folder, is_ad_hoc, is_card_of, places, run_name
from harness.errors import HarnessError
from harness.io import read_json
from harness.tracking.run_ids import compare_id, evaluate_id, train_id

Kind = Literal["train", "evaluate", "compare"]
TAG_LENGTH = 64  # W&B refuses longer ones


@frozen(kw_only=True)
class Request:
    """One W&B run.

    kind       what `folder` holds: tables of a training run, a card with clips, or a comparison
    target     what a person calls it: a target or, for a comparison, the experiment
    root       the project's folder
    folder     the folder that is mirrored
    settings   arguments of `wandb.init`, but for project and mode
    uses       paths below `root` that went into it (for lineage)
    makes      path below `root` that came out of it; None where DVC keeps nothing
    proof      file below `root` that DVC recorded together with `makes`: while they agree, so does the rest
    """

    kind: Kind
    target: str
    root: str
    folder: str
    settings: dict[str, Any]
    uses: tuple[str, ...] = ()
    makes: str | None = None
    proof: str | None = None

    @property
    def id(self) -> str:
        """The run's id at W&B."""
        return self.settings["id"]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Request:
        """From plain data."""
        return cls(**{**content, "uses": tuple(content["uses"])})


def settings(
    *, id: str, group: str, name: str, job_type: Kind, config: Mapping[str, Any], tags: Iterable[str]
) -> dict[str, Any]:
    """Arguments of `wandb.init`. A run that exists is continued."""
    return {
        "id": id,
        "resume": "allow",
        "group": group,
        "name": name,
        "job_type": job_type,
        "tags": [tag[:TAG_LENGTH] for tag in tags],
        "config": dict(config),
    }


def below(root: Path, path: Path) -> str:
    """A path as it is called in the project; unchanged where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def train_request(
    *,
    root: Path,
    folder: Path,
    target: str,
    group: str,
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    fingerprint: str,
    uses: Iterable[Path],
    is_ad_hoc: bool,
) -> Request:
    """The request of a training run whose tables are in `folder`; `target`: of an ad hoc run its name alone."""
    target = f"{AD_HOC}/{target}" if is_ad_hoc else target
    return Request(
        kind="train",
        target=target,
        root=str(root.resolve()),
        folder=str(folder.resolve()),
        settings=settings(
            id=train_id(fingerprint),
            group=group,
            name=name,
            job_type="train",
            config={**config, "inputs": dict(inputs), "fingerprint": fingerprint, "target": target},
            tags=_tags(config, is_ad_hoc),
        ),
        uses=tuple(sorted(below(root, path) for path in uses)),
        makes=None if is_ad_hoc else f"checkpoints/{target}",
        proof=None if is_ad_hoc else f"results/{target}/manifest.json",
    )


def _tags(config: Mapping[str, Any], is_ad_hoc: bool) -> list[str]:
    return [config["preset"], config["method"], f"seed{config['seed']}", *(["ad_hoc"] if is_ad_hoc else [])]


def file_names(target: str) -> tuple[str, str]:
    """Group and name of a declared target's runs."""
    group, arm, seed = split_target(target)
    return group, f"{arm or group}-s{seed}"


def finished_train_request(target: str, root: Path) -> Request:
    """The request of a finished training run, from `results/TARGET` alone, so also in a fresh clone.

    Raises:
        HarnessError: the manifest is missing or cannot be read.
    """
    folder = root / "results" / target
    manifest = read_json(folder / "manifest.json")
    group, name = file_names(target)
    parents = [Path("checkpoints") / parent["target"] for parent in manifest["parents"]]
    return train_request(
        root=root,
        folder=folder,
        target=target,
        group=group,
        name=name,
        config=manifest["config"],
        inputs=manifest["inputs"],
        fingerprint=manifest["fingerprint"],
        uses=[
            root / (manifest["config"].get("prompts") or manifest["config"]["data"]),
            *(root / parent for parent in parents),
        ],
        is_ad_hoc=False,
    )


def evaluate_request(target: str, root: Path) -> Request:
    """The request of an evaluation, from the card and the manifest of a target or of an ad hoc run (`runs/NAME`).

    Raises:
        HarnessError: one of them is missing or cannot be read, or the card is of an earlier run of that name.
    """
    target = run_name(target, root)
    checkpoints, results = places(target)
    folder = root / evaluation_folder(target)
    manifest, card = read_json(root / results / "manifest.json"), read_json(folder / "cards.json")
    config, fingerprint = manifest["config"], manifest["fingerprint"]
    if not is_card_of(card, manifest):
        raise HarnessError(
            f"{folder / 'cards.json'}: is of an earlier run; run `python -m harness evaluate {target}` for this one"
        )
    ad_hoc = is_ad_hoc(target)
    group, name = ("ad_hoc", f"{results.name}-s{config['seed']}") if ad_hoc else file_names(target)
    return Request(
        kind="evaluate",
        target=target,
        root=str(root.resolve()),
        folder=str(folder.resolve()),
        settings=settings(
            id=evaluate_id(card, fingerprint),
            group=group,
            name=f"{name}-evaluate",
            job_type="evaluate",
            config={**config, "fingerprint": fingerprint, "target": target, "protocol": card["protocol"]},
            tags=_tags(config, ad_hoc),
        ),
        uses=(
            *(() if ad_hoc else (checkpoints.as_posix(),)),
            "checkpoints/encoders",
            "checkpoints/evaluators",
            "data/clips",
            "data/encoded",
        ),
        makes=None if ad_hoc else f"results/{target}/cards.json",
        proof=None if ad_hoc else f"results/{target}/cards.json",
    )


def compare_request(experiment: str, root: Path) -> Request:
    """The request of a comparison, from `comparisons/EXPERIMENT`.

    Raises:
        HarnessError: it is missing or cannot be read.
    """
    folder = root / "comparisons" / experiment
    comparison = read_json(folder / "comparison.json")
    seeds = comparison["fingerprints"]
    cards = [f"results/{experiment}/{arm}/seed{seed}/cards.json" for arm in seeds for seed in seeds[arm]]
    return Request(
        kind="compare",
        target=experiment,
        root=str(root.resolve()),
        folder=str(folder.resolve()),
        settings=settings(
            id=compare_id(comparison),
            group=experiment,
            name=f"{experiment}-compare",
            job_type="compare",
            config={
                "declaration": comparison["declaration"],
                "fingerprints": seeds,
                "protocol": comparison["protocol"],
            },
            tags=[comparison["protocol"]["preset"]],
        ),
        uses=("results/teacher/cards.json", *sorted(cards)),
        makes=f"comparisons/{experiment}/comparison.json",
        proof=f"comparisons/{experiment}/comparison.json",
    )
