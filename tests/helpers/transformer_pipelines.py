"""Pipelines of Stable Diffusion 3's and Z-Image's form with a few random weights, written by diffusers."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

SD3: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 28,
    "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
}
Z_IMAGE: dict[str, Any] = {
    "in_channels": 4,
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 16,
    "axes_dims": [4, 6, 6],
    "axes_lens": [64, 32, 32],
}
VAE: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": [16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "scaling_factor": 0.7,
    "shift_factor": 0.1,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MESSAGE = "{% for m in messages %}<u>{{ m['content'] }}<e>{% endfor %}"


@lru_cache
def _all() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="flowlit-transformers-")


def awake(network: Any) -> Any:
    """Give a network random weights where it begins with zeros, so that all inputs matter."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def clip(width: int, projection: int) -> Any:
    import transformers

    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = transformers.CLIPTextConfig(**sizes, **tokens, projection_dim=projection)
    return awake(transformers.CLIPTextModelWithProjection(config))


def t5(width: int) -> tuple[Any, Any]:
    import transformers

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    tokenizer = transformers.T5TokenizerFast(
        vocab=[*vocabulary, *((letter, -3.0) for letter in LETTERS)], extra_ids=0
    )
    sizes = {"d_model": width, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(tokenizer), **sizes)
    return tokenizer, awake(transformers.T5EncoderModel(config))


def qwen(width: int) -> tuple[Any, Any]:
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    signs = ["<|endoftext|>", "<u>", "<e>", *sorted(ByteLevel.alphabet())]
    tokenizer = transformers.Qwen2TokenizerFast(vocab={sign: k for k, sign in enumerate(signs)}, merges=[])
    tokenizer.chat_template = MESSAGE
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), **sizes, **heads)
    return tokenizer, awake(transformers.Qwen3Model(config))


@lru_cache
def sd3_pipeline(with_t5: bool = True, shift: float = 3.0) -> Path:
    """Return the folder of a StableDiffusion3Pipeline of 16 × 16 images; not to be changed."""
    import diffusers

    from flowlit.data.clip_vocabulary import clip_tokenizer

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    third = t5(24) if with_t5 else (None, None)
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=awake(diffusers.SD3Transformer2DModel(**SD3)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=diffusers.AutoencoderKL(**VAE).eval(),
        text_encoder=clip(8, 12),
        tokenizer=tokenizer,
        text_encoder_2=clip(12, 16),
        tokenizer_2=tokenizer,
        text_encoder_3=third[1],
        tokenizer_3=third[0],
    )
    folder = Path(_all().name) / f"sd3_{with_t5}_{shift}"
    pipeline.save_pretrained(folder)
    return folder


@lru_cache
def z_image_pipeline() -> Path:
    """Return the folder of a ZImagePipeline of 16 × 16 images; not to be changed."""
    import diffusers

    torch.manual_seed(0)
    tokenizer, encoder = qwen(16)
    pipeline = diffusers.ZImagePipeline(
        transformer=awake(diffusers.ZImageTransformer2DModel(**Z_IMAGE)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKL(**VAE).eval(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )
    folder = Path(_all().name) / "z_image"
    pipeline.save_pretrained(folder)
    return folder
