"""The names that `model` may have; `harness.models.presets` has their geometries (this module loads no torch)."""

from __future__ import annotations

MODELS = (
    "tiny",
    "tiny-i2v",
    "wan2.1-t2v-1.3b",
    "wan2.1-t2v-14b",
    "wan2.1-i2v-14b-480p",
    "wan2.1-i2v-14b-720p",
    "wan2.2-ti2v-5b",
)

IMAGE_MODELS = ("tiny-i2v", "wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p")  # those that read CLIP tokens and `y`
