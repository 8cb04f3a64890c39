import pytest

PARAMS = """\
preset: small
seeds: [0, 1, 2]
presets:
  small:
    data: {source: moving_digits, height: 24, width: 24, frames: 33, clips: {train: 64, validation: 8, test: 8}}
    encoders: {image_encoder: random_clip}
    evaluators: {steps: 5}
    evaluation: {}
    run:
      model: tiny
      frames: 9
      rollout: {denoising_steps: [1000, 500], shift: 3.0}
      sft: {updates: 10, optimizer: {lr: 4e-3}}
      causal_sft: {updates: 10, optimizer: {lr: 1e-3}}
      dmd:
        generator_updates: 12
        cfg_scale: 2.0
        ema_decay: 0.97
        generator_optimizer: {lr: 3e-4}
        critic_optimizer: {lr: 6e-4}
      monitor: {}
    i2v: {model: tiny-i2v, teacher: checkpoints/teacher_i2v, sft: {updates: 4}}
"""
EXPERIMENT = """\
seeds: [0]
fixed: {method: dmd, dmd.cfg_scale: 1.5}
arms:
  one: {label: One, set: {init.kind: teacher}}
  two: {label: Two, set: {init: {kind: causal_sft}, dmd.cfg_scale: 3}}
"""


@pytest.fixture
def project(tmp_path):
    """A project with its own numbers, so that tuning the shipped presets breaks no test."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dmd.yaml").write_text("method: dmd\nseed: 0\n")
    (tmp_path / "causal_sft.yaml").write_text("method: causal_sft\nseed: 0\n")
    folder = tmp_path / "experiments/trial"
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    return tmp_path
