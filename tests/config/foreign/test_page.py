from pathlib import Path

from their_files import FILES

from harness.config.documents import parse_yaml
from harness.config.foreign.page import configuration, page
from harness.config.foreign.translate import translate
from harness.config.load import load_params

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"
PRESETS = {name: load_params(PARAMS, name).preset for name in load_params(PARAMS).raw["presets"]}


def shown(**values):
    document = {**parse_yaml(FILES["self_forcing_dmd"], "f.yaml"), **values}
    translation = translate(document, PRESETS, where="f.yaml")
    return translation, page(translation, "f.yaml").splitlines()


def line(lines, start):
    return next(line for line in lines if line.startswith(start))


def test_each_key_stands_where_it_belongs():
    translation, lines = shown(oddity=1, guidance_scal=2)
    sections = [i for i, text in enumerate(lines) if text and not text.startswith(" ")]
    titles = [lines[i].split(" (")[0] for i in sections]
    assert titles == [
        "f.yaml: self-forcing",
        "translated",
        "no equivalent here",
        "so here without being said",
        "unknown",
        "what no key says",
        "first",
    ]
    assert "→ dmd.cfg_scale: 4  [theirs is cond + 3·" in line(lines, "  guidance_scale: 3 ")
    assert "→ dmd.ema_start: 40" in line(lines, "  ema_start_step: 200")
    assert "→ init.kind: checkpoint, init.path: pretrained/ode_init" in line(lines, "  generator_ckpt:")
    assert "weight_decay: 0.01 (their default)" in line(lines, "  weight_decay")
    assert lines.index(line(lines, "  oddity")) > lines.index("unknown (2)")
    assert "did you mean `guidance_scale`?" in line(lines, "  guidance_scal ")
    assert line(lines, "  python -m harness import checkpoints/ode_init.pt --preset")
    every = {entry.key for entry in translation.entries if not entry.is_default}
    assert all(any(text.startswith(f"  {key}: ") for text in lines) for key in every)


def test_keys_are_never_shown():
    text = "\n".join(shown()[1])
    assert "wandb_key: (not shown)" in text
    assert "hunter2" not in text


def test_long_values_are_cut():
    lines = shown(negative_prompt="x" * 500)[1]
    assert len(line(lines, "  negative_prompt")) < 250


def test_the_configuration_file():
    translation, _ = shown()
    text = configuration(translation, "some/folder/f.yaml")
    assert text.startswith("# From f.yaml (self-forcing), by")
    assert parse_yaml(text, "x") == translation.document
