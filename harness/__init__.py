"""A reproducible research harness for few-step causal video diffusion."""

__version__ = "0.1.0"
