"""The model card of an export: what the network is, how it was made, what it reaches, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from harness.formats.wan_config import looks_like

LOADING = {
    "diffusers": "```python\nfrom diffusers import WanTransformer3DModel\n\n"
    "transformer = WanTransformer3DModel.from_pretrained(FOLDER)\n```",
    "original": "The folder has the layout of Wan's own repositories: give it as the checkpoint folder of Wan's code "
    "(its VAE and text encoder are not here).",
    "single_file": "Put the file where ComfyUI or LightX2V look for diffusion models; the names are Wan's own.",
    "self_forcing": "Give the file as `--checkpoint_path` (or `generator_ckpt`) to Self-Forcing; `generator` and "
    "`generator_ema` are the same weights.",
    "peft": "Only the adapter is here (LoRA); it changes the network that the run started from (BASE).\n\n"
    "```python\nfrom diffusers import WanTransformer3DModel\nfrom peft import PeftModel\n\n"
    "base = WanTransformer3DModel.from_pretrained(BASE)\n"
    "transformer = PeftModel.from_pretrained(base, FOLDER).merge_and_unload()\n```",
    "longlive": "Only the adapter is here (LoRA, under `generator_lora`, with alpha = rank); it changes the network "
    "that the run started from. Give the file as `lora_ckpt` to LongLive, with that network as `generator_ckpt`.",
}
_MAIN = ("student", "causal_sft", "teacher")  # the model of a card that the exported weights are


@frozen(kw_only=True)
class Provenance:
    """What is known of exported weights. `manifest` and `cards` are those of a target's results; `origin` is that of an
    import; each may be missing.
    """

    name: str
    manifest: Mapping[str, Any] | None = None
    cards: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] | None = None


def model_card(
    what: Provenance, config: Mapping[str, Any], layout: str, dtypes: list[str], sums: Mapping[str, str]
) -> str:
    """The text of `README.md`: YAML front matter and Markdown.

    dtypes   of the weights
    sums     SHA-256 of each exported file
    """
    kind = "image-to-video" if config["image_dim"] is not None else "text-to-video"
    lines = ["---", "library_name: diffusers", f"pipeline_tag: {kind}", "tags: [video, wan]", "---", ""]
    lines += [f"# {what.name}", "", *_network(config, dtypes), "", "## Use", "", LOADING[layout], ""]
    if what.manifest is not None:
        lines += [*_method(what.manifest), *_data(what.manifest)]
    lines += _metrics(what.cards)
    lines += ["## Provenance", "", *_provenance(what), *(f"- `{file}`: SHA-256 `{sums[file]}`" for file in sums)]
    return "\n".join(lines) + "\n"


def _network(config: Mapping[str, Any], dtypes: list[str]) -> Iterator[str]:
    presets = " or ".join(looks_like(config)) or "none by name"
    yield (
        f"A Wan transformer (preset: {presets}): {config['num_layers']} layers, {config['num_attention_heads']} heads "
        f"of {config['attention_head_dim']}, feed-forward {config['ffn_dim']}, {config['in_channels']} channels in, "
        f"{config['out_channels']} out. Weights: {', '.join(dtypes)}."
    )


def _method(manifest: Mapping[str, Any]) -> Iterator[str]:
    run = manifest.get("config", {})
    yield from ("## Method", "")
    if "imported" in manifest:
        yield from ("Not trained here: imported from pretrained weights.", "")
        return
    method, rollout = run.get("method", "unknown"), run.get("rollout", {})
    updates = ", ".join(f"{count} {role} updates" for role, count in manifest.get("updates", {}).items() if count)
    yield f"- method `{method}` from `{run.get('init', {}).get('kind', 'unknown')}` weights, seed {run.get('seed')}"
    yield f"- {updates or 'updates unknown'}, effective batch {manifest.get('effective_batch', 'unknown')}"
    if rollout:
        yield (
            f"- made for {rollout.get('attention')} sampling: denoising steps {rollout.get('denoising_steps')} at "
            f"shift {rollout.get('shift')}, {rollout.get('frames_per_block')} latent frames per block, window "
            f"{rollout.get('window')}, sink {rollout.get('sink')}; {run.get('frames')} latent frames in training"
        )
    yield from _settings(run.get(method))
    yield ""


def _settings(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        yield "- settings: " + ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)


def _data(manifest: Mapping[str, Any]) -> Iterator[str]:
    run = manifest.get("config", {})
    yield from ("## Data", "")
    yield f"- preset `{run.get('preset', 'unknown')}`, encoded clips `{run.get('data', 'unknown')}`"
    yield from (f"- input `{name}`: SHA-256 `{value}`" for name, value in manifest.get("inputs", {}).items())
    yield ""


def _metrics(cards: Mapping[str, Any] | None) -> Iterator[str]:
    yield from ("## Metrics", "")
    models = cards.get("models", {}) if cards else {}
    name = next((name for name in _MAIN if name in models), None)
    if cards is None or name is None:
        yield from ("Not evaluated.", "")
        return
    block = models[name]
    yield from (
        f"{block.get('label', name)}; 95 % intervals.",
        "",
        "| metric | value | interval |",
        "| --- | --- | --- |",
    )
    for metric, entry in sorted(block.get("metrics", {}).items()):
        if entry.get("value") is not None:
            low, high = (_number(entry.get(end)) for end in ("low", "high"))
            yield f"| {metric} | {_number(entry['value'])} | [{low}, {high}] |"
    yield ""
    protocol = cards.get("protocol", {})
    plain = {key: value for key, value in protocol.items() if isinstance(value, str | int | float)}
    yield "Protocol: " + ", ".join(f"{key} {value}" for key, value in plain.items()) + "."
    yield from (f"Sampler: {block['sampler']}.", "") if block.get("sampler") else ("",)


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _provenance(what: Provenance) -> Iterator[str]:
    manifest, origin = what.manifest, what.origin
    if manifest is not None:
        git = manifest.get("git", {})
        yield f"- run `{manifest.get('target', what.name)}`, fingerprint `{manifest.get('fingerprint')}`"
        yield f"- command: `{manifest.get('command')}`"
        yield f"- code: commit `{git.get('commit')}`{' with local changes' if git.get('dirty') else ''}"
        yield "- packages: " + ", ".join(f"{name} {version}" for name, version in manifest.get("packages", {}).items())
        yield f"- device: {manifest.get('device', 'unknown')}; finished {manifest.get('finished', 'unknown')}"
        yield from (
            f"- starts from `{p['target']}`, fingerprint `{p['fingerprint']}`" for p in manifest.get("parents", [])
        )
        origin = manifest.get("imported", origin)
    if origin is not None:
        revision = f", revision `{origin['revision']}`" if origin.get("revision") else ""
        yield f"- imported from `{origin.get('source')}`{revision}, SHA-256 `{origin.get('sha256')}`"
    if manifest is None and origin is None:
        yield "- unknown: neither a run nor an import"
