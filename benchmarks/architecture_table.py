"""The architectures of `benchmarks.architectures`: tiny configurations, weights from a seed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 7
LABELS = 10
PICTURE = 64
STATIC, DYNAMIC = "static_w8a8_channel", "dynamic_w8_channel"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model of the library, made tiny. `settings` are of its configuration.

    `task`, `tower` and `seconds` are what a person would ask of it; `scheme` is how it is
    quantized: nets of convolutions with ranges from calibration, others while they run.
    """

    name: str
    kind: str
    architecture: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    tower: str = ""
    seconds: float = 0.0
    scheme: str = DYNAMIC

    def config(self) -> Any:
        """The library's configuration."""
        import transformers

        made = getattr(transformers, self.architecture).config_class(
            **copy.deepcopy(dict(self.settings))
        )
        if not hasattr(made, "text_config") and "num_labels" not in self.settings:
            made.num_labels = LABELS
        return made

    def model_type(self) -> str:
        """As the library, and Optimum, call it; of one tower, the tower's."""
        config = self.config()
        part = {"text": "text_config", "image": "vision_config"}.get(self.tower, "")
        return str(getattr(config, part).model_type if part else config.model_type)

    def save(self, folder: Path) -> None:
        """Configuration and weights, as the library writes them."""
        import torch
        import transformers

        torch.manual_seed(SEED)
        model = getattr(transformers, self.architecture)(self.config())
        spread(model)
        settle(model)
        model.save_pretrained(folder)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["architectures"] = [self.architecture]
        path.write_text(json.dumps(config))


def spread(model: Any) -> None:
    """Weights as wide as a trained network's: the usual start makes all answers nearly the same."""
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                fan = value[0].numel()
                value.normal_(0.0, 1.0 / math.sqrt(fan))
            elif any(word in name for word in ("layer_scale", "lambda", "gamma")):
                value.fill_(0.5)  # some begin so small that a block does nothing


def settle(model: Any) -> None:
    """Batch norms as training would leave them: with the usual start deep nets answer nothing."""
    import torch

    norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    if not norms or model.main_input_name != "pixel_values":
        return
    side = model.config.image_size if hasattr(model.config, "image_size") else PICTURE
    usual = [one.momentum for one in norms]
    model.eval()
    for one in norms:
        torch.nn.init.ones_(one.weight)
        one.train()
        one.momentum = 1.0  # what is seen takes the place of what was there
    with torch.no_grad():
        model(pixel_values=torch.randn(8, 3, side, side))
    for one, momentum in zip(norms, usual, strict=True):
        one.momentum = momentum
    model.eval()


TEXT: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "max_position_embeddings": 64,
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "image_size": 32, "patch_size": 8,
}  # fmt: skip
SWIN: dict[str, Any] = {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [1, 1],
        "num_heads": [2, 4], "window_size": 4}  # fmt: skip
PYRAMID: dict[str, Any] = {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}
SOUND: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "conv_dim": [32, 32, 32], "conv_stride": [5, 4, 4],
    "conv_kernel": [10, 8, 4], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 32,
}  # fmt: skip
CLIP: dict[str, Any] = {
    "text_config": {**TEXT, "projection_dim": 32, "eos_token_id": 2},
    "vision_config": {**VIT, "projection_dim": 32},
    "projection_dim": 32,
}
SIGLIP: dict[str, Any] = {
    "text_config": {**TEXT, "projection_size": 64},
    "vision_config": VIT,
}  # fmt: skip
DETR: dict[str, Any] = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "backbone_config": {"model_type": "resnet", "embedding_size": 16,
                        "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1],
                        "layer_type": "basic", "out_features": ["stage4"]},
    "image_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "num_queries": 10,
}  # fmt: skip
RESNET_BACKBONE: dict[str, Any] = {
    "model_type": "rt_detr_resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 32, 64],
    "depths": [1, 1, 1, 1], "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
    "out_indices": [2, 3, 4],
}  # fmt: skip


def _text(name: str, architecture: str, **settings: Any) -> Architecture:
    return Architecture(name, "Text", architecture, {**TEXT, **settings})


def _image(name: str, architecture: str, **settings: Any) -> Architecture:
    return Architecture(name, "Vision", architecture, settings)


def _conv(name: str, architecture: str, **settings: Any) -> Architecture:
    return Architecture(name, "Vision", architecture, settings, scheme=STATIC)


def _sound(name: str, architecture: str, **settings: Any) -> Architecture:
    return Architecture(name, "Sound", architecture, settings, seconds=0.25)


ARCHITECTURES: tuple[Architecture, ...] = (
    _text("BERT", "BertForSequenceClassification"),
    _text("DistilBERT", "DistilBertForSequenceClassification", dim=64, n_layers=2, n_heads=4,
          hidden_dim=128),
    _text("RoBERTa", "RobertaForSequenceClassification"),
    _text("RoBERTa-PreLayerNorm", "RobertaPreLayerNormForSequenceClassification"),
    _text("XLM-RoBERTa", "XLMRobertaForTokenClassification"),
    _text("CamemBERT", "CamembertForTokenClassification"),
    _text("Data2Vec text", "Data2VecTextModel"),
    _text("ALBERT", "AlbertForSequenceClassification", embedding_size=32),
    _text("ELECTRA", "ElectraForSequenceClassification", embedding_size=32),
    _text("DeBERTa", "DebertaForSequenceClassification", relative_attention=True,
          pos_att_type=["c2p", "p2c"], max_relative_positions=32),
    _text("DeBERTa-v2", "DebertaV2ForSequenceClassification", relative_attention=True,
          pos_att_type=["c2p", "p2c"], position_buckets=16, share_att_key=True,
          norm_rel_ebd="layer_norm", position_biased_input=False),
    _text("MobileBERT", "MobileBertForSequenceClassification", embedding_size=32,
          intra_bottleneck_size=32, intermediate_size=128, num_feedforward_networks=2),
    _text("MPNet", "MPNetForSequenceClassification"),
    _text("SqueezeBERT", "SqueezeBertForSequenceClassification", embedding_size=64),
    _text("ModernBERT", "ModernBertForSequenceClassification", pad_token_id=0, cls_token_id=1,
          sep_token_id=2, bos_token_id=1, eos_token_id=2, local_attention=8),
    _text("ConvBERT", "ConvBertForSequenceClassification", embedding_size=64),
    _text("RoFormer", "RoFormerForSequenceClassification", embedding_size=64),
    _text("Nyströmformer", "NystromformerForSequenceClassification", num_landmarks=16,
          segment_means_seq_len=16),
    _text("FNet", "FNetForSequenceClassification"),
    Architecture("Funnel", "Text", "FunnelForSequenceClassification",
                 {"vocab_size": 100, "block_sizes": [1, 1], "d_model": 64, "n_head": 4,
                  "d_head": 16, "d_inner": 128}),
    _text("Longformer", "LongformerForSequenceClassification", attention_window=8),
    _text("BigBird", "BigBirdForSequenceClassification", attention_type="original_full"),
    Architecture("XLNet", "Text", "XLNetForSequenceClassification",
                 {"vocab_size": 100, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128}),
    _text("ESM", "EsmForSequenceClassification", pad_token_id=1, mask_token_id=4,
          position_embedding_type="absolute"),
    _text("RemBERT", "RemBertForSequenceClassification", input_embedding_size=32,
          output_embedding_size=32),
    _text("ERNIE", "ErnieForSequenceClassification"),
    _text("I-BERT", "IBertForSequenceClassification"),
    _text("LayoutLM", "LayoutLMForSequenceClassification"),
    _text("T5 encoder", "T5EncoderModel", d_model=64, d_kv=16, d_ff=128, num_layers=2,
          num_heads=4),
    _text("GPT-2", "GPT2ForSequenceClassification", n_embd=64, n_layer=2, n_head=4,
          n_positions=64, pad_token_id=0),
    Architecture("CLIP, text tower", "Text", "CLIPModel", CLIP, tower="text"),
    Architecture("SigLIP, text tower", "Text", "SiglipModel", SIGLIP, tower="text"),
    _image("ViT", "ViTForImageClassification", **VIT),
    _image("ViT, pooled", "ViTModel", **VIT),
    _image("DeiT", "DeiTForImageClassification", **VIT),
    _image("DeiT with teacher", "DeiTForImageClassificationWithTeacher", **VIT),
    _image("BEiT", "BeitForImageClassification", **VIT, use_relative_position_bias=True,
           out_indices=[1, 2]),
    _image("Data2Vec vision", "Data2VecVisionForImageClassification", **VIT,
           use_relative_position_bias=True, out_indices=[1, 2]),
    _image("DINOv2", "Dinov2ForImageClassification", **VIT),
    _image("DINOv2 with registers", "Dinov2WithRegistersForImageClassification", **VIT),
    _image("Swin", "SwinForImageClassification", **SWIN),
    _image("Swin v2", "Swinv2ForImageClassification", **SWIN),
    _image("PVT", "PvtForImageClassification", image_size=64, num_labels=1000,  # it forgets others
           hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4]),
    _image("PVT v2", "PvtV2ForImageClassification", image_size=64,
           hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4]),
    _image("LeViT", "LevitForImageClassification", image_size=64, hidden_sizes=[32, 48, 64],
           num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8]),
    _image("CvT", "CvtForImageClassification", image_size=64, embed_dim=[16, 32, 64],
           num_heads=[1, 2, 4], depth=[1, 2, 3]),
    _conv("PoolFormer", "PoolFormerForImageClassification", image_size=64, **PYRAMID),
    _conv("MobileViT", "MobileViTForImageClassification", image_size=64,
           hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 64]),
    _conv("MobileViT v2", "MobileViTV2ForImageClassification", image_size=64,
           width_multiplier=0.25),
    _conv("ConvNeXt", "ConvNextForImageClassification", image_size=64, **PYRAMID),
    _conv("ConvNeXt v2", "ConvNextV2ForImageClassification", image_size=64, **PYRAMID),
    _conv("ResNet", "ResNetForImageClassification", image_size=64, embedding_size=16,
           layer_type="basic", **PYRAMID),
    _conv("RegNet", "RegNetForImageClassification", image_size=64, embedding_size=16,
           groups_width=8, **PYRAMID),
    _conv("MobileNet v1", "MobileNetV1ForImageClassification", image_size=64,
           depth_multiplier=0.25),
    _conv("MobileNet v2", "MobileNetV2ForImageClassification", image_size=64,
           depth_multiplier=0.25),
    _conv("EfficientNet", "EfficientNetForImageClassification", image_size=64,
           width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320),
    _image("YOLOS", "YolosForObjectDetection", **{**VIT, "image_size": [32, 48]},
           num_detection_tokens=10),
    _image("DETR", "DetrForObjectDetection", **DETR),
    _image("Conditional DETR", "ConditionalDetrForObjectDetection", **DETR),
    _image("Deformable DETR", "DeformableDetrForObjectDetection",
           **{**DETR, "image_size": 128, "backbone_config": {**DETR["backbone_config"],
              "out_features": ["stage2", "stage3", "stage4"]}}),
    _image("Table Transformer", "TableTransformerForObjectDetection", **DETR),
    _image("RT-DETR", "RTDetrForObjectDetection", image_size=64,
           backbone_config=RESNET_BACKBONE, encoder_hidden_dim=32, encoder_in_channels=[32, 32, 64],
           feat_strides=[8, 16, 32], encoder_layers=1, encoder_ffn_dim=64,
           encoder_attention_heads=2, d_model=32, num_queries=10, decoder_in_channels=[32, 32, 32],
           decoder_ffn_dim=64, decoder_layers=2, decoder_attention_heads=2, num_denoising=0,
           anchor_image_size=[64, 64], hidden_expansion=1.0),
    _image("SegFormer", "SegformerForSemanticSegmentation", image_size=64,
           hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4],
           decoder_hidden_size=32),
    _image("DPT", "DPTForSemanticSegmentation", **{**VIT, "num_hidden_layers": 4},
           neck_hidden_sizes=[16, 32, 32, 32], backbone_out_indices=[0, 1, 2, 3],
           reassemble_factors=[4, 2, 1, 0.5],
           fusion_hidden_size=32, use_auxiliary_head=False),
    Architecture("CLIP, image tower", "Vision", "CLIPModel", CLIP, tower="image"),
    Architecture("SigLIP, image tower", "Vision", "SiglipModel", SIGLIP, tower="image"),
    _sound("Wav2Vec2", "Wav2Vec2ForSequenceClassification", **SOUND),
    _sound("Wav2Vec2-Conformer", "Wav2Vec2ConformerForSequenceClassification", **SOUND,
           position_embeddings_type="relative"),
    _sound("HuBERT", "HubertForSequenceClassification", **SOUND),
    _sound("WavLM", "WavLMForSequenceClassification", **SOUND),
    _sound("UniSpeech", "UniSpeechForSequenceClassification", **SOUND),
    _sound("UniSpeech-SAT", "UniSpeechSatForSequenceClassification", **SOUND),
    _sound("Data2Vec audio", "Data2VecAudioForSequenceClassification", **SOUND,
           conv_pos_kernel_size=3),
    _sound("SEW", "SEWForSequenceClassification", **SOUND, squeeze_factor=2),
    _sound("AST", "ASTForAudioClassification",
           **{k: v for k, v in VIT.items() if k != "image_size"},
           frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=32),
    _sound("Whisper encoder", "WhisperForAudioClassification", d_model=64, encoder_layers=2,
           encoder_attention_heads=4, encoder_ffn_dim=128, decoder_layers=1,
           decoder_attention_heads=4, decoder_ffn_dim=128, max_source_positions=50,
           num_mel_bins=40, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
           decoder_start_token_id=1, classifier_proj_size=32),
)  # fmt: skip
