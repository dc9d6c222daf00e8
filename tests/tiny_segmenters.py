"""Segmenters of the ``transformers`` package, tiny and with random weights, saved with their processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _seeded() -> None:
    import torch

    torch.manual_seed(0)


def tiny_sam3(folder: Path) -> Path:
    from transformers import CLIPTextConfig, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    _seeded()
    side = 112
    width = 32
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": side,
    }
    detr = {"hidden_size": width, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * width}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": width,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=CLIPTextConfig(
            vocab_size=300,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            eos_token_id=1,
            bos_token_id=2,
            pad_token_id=0,
        ).to_dict(),
        geometry_encoder_config=detr,
        detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": 5},
        mask_decoder_config={"hidden_size": width, "num_attention_heads": 2},
    )
    Sam3Model(config).save_pretrained(folder)
    images = Sam3ImageProcessor(size={"height": side, "width": side}, mask_size={"height": 32, "width": 32})
    Sam3Processor(images, _byte_tokenizer()).save_pretrained(folder)
    return folder


def tiny_sam2(folder: Path) -> Path:
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    _seeded()
    side, width = 128, 32
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [side, side],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 4, 4],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": width,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": side, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 2 * width,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": width,
        },
    )
    Sam2Model(config).save_pretrained(folder)
    images = Sam2ImageProcessor(size={"height": side, "width": side}, mask_size={"height": 32, "width": 32})
    Sam2Processor(images, target_size=side).save_pretrained(folder)
    return folder


def tiny_grounding_dino(folder: Path) -> Path:
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    _seeded()
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "window_size": 7,
            "image_size": 96,
            "embed_dim": 12,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 3, 4],
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "vocab_size": 64,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
        disable_custom_kernels=True,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(images, _word_tokenizer(folder)).save_pretrained(folder)
    return folder


def _byte_tokenizer() -> Any:
    from igrft.models.text import byte_tokenizer

    return byte_tokenizer()


def _word_tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "robot", "arm", "gripper"]
    path = folder / "vocab.txt"
    path.write_text("\n".join(words))
    return BertTokenizerFast(str(path))
