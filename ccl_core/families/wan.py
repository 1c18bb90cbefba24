"""Wan 2.1 and 2.2 (arXiv 2503.20314): the video stream that every joint model is made of, without sound."""

from __future__ import annotations

from ..guidance import TermScale
from .base import Content, Family, LoraNames, Preset, Sampling

# The published negative prompt of Wan.
# ruff: noqa: RUF001 - Chinese commas
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
    "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，"
    "背景人很多，倒着走"
)
# Names of diffusers' WanTransformer3DModel.
DIFFUSERS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
DIFFUSERS_BLOCK = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}

WAN = Family(
    title="Wan",
    contents=(
        Content(
            frozenset(("video",)),
            "a Wan model without an audio stream",
            "use Load Diffusion Model, or couple it with an audio stream in CCLModelAssembler",
        ),
    ),
    other_files={
        "decoder.head.0.gamma": "a Wan VAE: use Load VAE",
        "encoder.block.0.layer.0.SelfAttention.q.weight": "a T5 text encoder: use Load CLIP",
        "blocks.0.attn1.to_q.weight": "a Wan under the names of diffusers: use the same model under Wan's "
        "own names, as in Comfy-Org's repackaged files",
        "vision_model.embeddings.class_embedding": "a CLIP vision model: use Load CLIP Vision",
    },
    expert_boundaries=(0.875, 0.9),
    fp16=True,
    lora=LoraNames(video=("",), tower=DIFFUSERS, block=DIFFUSERS_BLOCK),
    presets=(Preset("Wan 480p, 81 frames", 832, 480, frames=81),),
    files={
        "video_model": "2.1 or 2.2, text or image to video; of two experts the one for high noise",
        "low_noise_model": "the low-noise file of 2.2 A14B",
    },
    sampling=Sampling(
        mode="cfg",
        settings={"text": TermScale(5.0, 5.0)},
        steps=50,
        sampler_name="uni_pc",
        negative=NEGATIVE,
    ),
)
