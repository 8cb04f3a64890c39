"""Using a trained generator from Python, in diffusers' manner."""

from harness.pipeline.causal_wan_pipeline import CausalWanPipeline

__all__ = ["CausalWanPipeline"]
