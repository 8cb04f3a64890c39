"""A random image-to-video pipeline of the real classes, tiny, saved in the layout of the published checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from harness.models.text import random_umt5, word_tokenizer

WORDS = ["a", "cat", "surfs", "dog", "&"]
CHANNELS, CLIP_DIM, TEXT_DIM = 4, 16, 16


def save_tiny_i2v(folder: Path) -> WanImageToVideoPipeline:
    """Write `folder/{transformer,vae,text_encoder,tokenizer,image_encoder,image_processor,scheduler}` and return what
    diffusers reads back. 224 pixels in patches of 14, so 257 CLIP tokens.
    """
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS, 512)
    vision = CLIPVisionConfig(
        hidden_size=CLIP_DIM,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
    )
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[2.0, 1.5, 0.7, 1.0],
    )
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=2 * CHANNELS + 4,
        out_channels=CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        image_dim=CLIP_DIM,
        added_kv_proj_dim=24,
    )
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=random_umt5(len(tokenizer), dim=TEXT_DIM, layers=2, seed=0),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}),
        image_encoder=CLIPVisionModel(vision),
        transformer=transformer,
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    pipeline = WanImageToVideoPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
