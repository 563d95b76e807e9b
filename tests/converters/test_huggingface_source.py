"""A Hugging Face folder is opened whole: its steps and its answers are the library's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from converters.ort import open_session
from converters.sources.heads import plain
from converters.sources.huggingface import open_huggingface
from converters.sources.interface import FloatModel, Interface
from converters.sources.steps import image_steps, sound_steps
from converters.sources.torch_model import TorchModel
from edge_runtime.bundle.manifest import Step, TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.items import collate
from edge_runtime.inference.tasks.table import declared_steps

RATE = 16_000
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64,
}  # fmt: skip
TEXT = {**SMALL, "vocab_size": 40, "max_position_embeddings": 32}
VIT = {**SMALL, "image_size": 32, "patch_size": 8}
SOUND = {
    **SMALL, "conv_dim": [16, 16], "conv_stride": [10, 8], "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16,
}  # fmt: skip
TALK = "the a cat dog sat ran on mat in Paris Berlin Anna Otto likes and sees"
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


@dataclass(frozen=True)
class Declared:
    """What a model's interface will be in a manifest."""

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: tuple[Step, ...]
    postprocess: tuple[Step, ...]
    name: str = "model"
    version: str = "1.0.0"


@dataclass(frozen=True)
class Device:
    """The steps and the model, as a device runs them."""

    model: FloatModel

    def __call__(self, raw: Any) -> tuple[dict[str, np.ndarray], Any]:
        """The model's inputs, and the result."""
        side = self.model.interface
        steps = declared_steps(
            Declared(side.task, side.inputs, side.outputs, side.preprocess, side.postprocess)
        )
        files = {name: path.read_bytes() for name, path in side.files.items()}
        reader = steps.open(files.__getitem__, None)
        item = reader(raw)
        feeds = collate(side.inputs, [item], item.length, reader.fills)
        (result,) = steps.results(self.model.run(feeds), feeds, [item])
        return feeds, result


def saved(folder: Path, architecture: str, processor: Any = None, **settings: Any) -> Any:
    """A tiny model of the library in `folder`, wide enough to answer differently."""
    torch.manual_seed(5)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(0.0, value[0].numel() ** -0.5)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return model


def tokenized(folder: Path, *, pad: int = 0) -> Any:
    """A word-level tokenizer in `folder`, as the library's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate([*special, *TALK.split()])}, "[UNK]")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast


def picture(width: int = 57, height: int = 41, seed: int = 1) -> Image.Image:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def clip(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(count) * 0.05 * (1 + np.arange(count) / count))
    return (0.4 * tone + 0.1 * rng.standard_normal(count)).astype(np.float32)


def opened(folder: Path, **asked: Any) -> FloatModel:
    return open_huggingface(folder, name="model", licence="", **asked)


def no_file(path: str) -> bytes:
    raise FileNotFoundError(path)


def softmax(logits: torch.Tensor) -> np.ndarray:
    found: np.ndarray = logits.softmax(-1).detach().numpy()
    return found


SIZE = {"height": 32, "width": 32}
VISION: Mapping[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "ViT": ("ViTForImageClassification",
            lambda: transformers.ViTImageProcessor(size=SIZE), VIT),
    "DeiT": ("DeiTForImageClassificationWithTeacher",
             lambda: transformers.DeiTImageProcessor(size={"height": 40, "width": 40},
                                                     crop_size=SIZE), VIT),
    "ConvNeXt": ("ConvNextForImageClassification",
                 lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
                 {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}),
    "ResNet": ("ResNetForImageClassification",
               lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
               {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8}),
}  # fmt: skip


@pytest.mark.parametrize("name", VISION)
def test_a_picture_gets_the_labels_that_the_library_gives_it(name: str, tmp_path: Path) -> None:
    architecture, make, settings = VISION[name]
    processor = make()
    model = saved(tmp_path, architecture, processor, **settings, num_labels=7)
    ours = opened(tmp_path)
    assert ours.interface.task == "image-classification"
    image = picture()
    wanted = processor(image, return_tensors="pt")
    feeds, result = Device(ours)(np.asarray(image))
    np.testing.assert_allclose(feeds["pixel_values"], wanted["pixel_values"], atol=1e-5)
    scores = softmax(model(**wanted).logits)[0]
    assert result.label == f"LABEL_{scores.argmax()}"
    assert [one[1] for one in result.scores] == pytest.approx(sorted(scores)[::-1][:5], abs=1e-5)


def test_a_conv_net_is_the_same_as_an_onnx_file(tmp_path: Path) -> None:
    saved(tmp_path, VISION["ResNet"][0], None, **VISION["ResNet"][2])
    ours = opened(tmp_path)
    assert ours.interface.preprocess == ()
    assert "preprocessor_config.json is missing" in ours.describe().notes[0]
    session = open_session(ours.export("onnxruntime", opset=17, lengths=()).data)
    noise = np.random.default_rng(1).standard_normal((3, 3, 224, 224)).astype(np.float32)
    (found,) = session.run(None, {"pixel_values": noise})
    wanted = ours.run({"pixel_values": noise})["logits"]
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_what_exporters_get_wrong_becomes_something_simpler_that_is_the_same() -> None:
    from torch.nn.utils.parametrizations import weight_norm

    torch.manual_seed(2)
    # EfficientNet's pool over the whole map: torch divides by 6 × 5 points, ONNX by 320 × 320.
    net = torch.nn.Sequential(
        weight_norm(torch.nn.Conv2d(3, 4, 3)), torch.nn.AvgPool2d(320, ceil_mode=True)
    )
    given = {"input": torch.randn(2, 3, 8, 7)}
    wanted = net(given["input"]).detach().numpy()
    plain(net)
    assert not torch.nn.utils.parametrize.is_parametrized(net[0])
    side = Interface(
        "tensors",
        (TensorSpec("input", "float32", ("batch", 3, 8, 7)),),
        (TensorSpec("y", "float32", ("batch", 4, 1, 1)),),
    )
    model = TorchModel(net, side, given, "net", "0" * 64)
    session = open_session(model.export("onnxruntime", opset=17, lengths=()).data)
    (found,) = session.run(None, {"input": given["input"].numpy()})
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert model.notes == ()


PROCESSORS: Mapping[str, Any] = {
    "BeitImageProcessor": {"size": SIZE, "do_center_crop": False},
    "BitImageProcessor": {"size": {"shortest_edge": 36}, "crop_size": SIZE},
    "BlipImageProcessor": {"size": {"height": 30, "width": 44}},
    "CLIPImageProcessor": {"size": {"shortest_edge": 32}, "crop_size": SIZE},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 384}},
    "DPTImageProcessor": {"size": SIZE},
    "DetrImageProcessor": {"size": {"height": 40, "width": 48}},
    "EfficientNetImageProcessor": {"size": SIZE, "resample": 2},
    "EfficientNetImageProcessor offset": {"size": SIZE, "rescale_offset": True,
                                          "include_top": False},
    "LevitImageProcessor": {"size": {"shortest_edge": 28}, "crop_size": {"height": 28,
                                                                         "width": 28}},
    "MobileNetV1ImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": SIZE},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": SIZE},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 36}, "crop_size": SIZE},
    "PvtImageProcessor": {"size": SIZE},
    "RTDetrImageProcessor": {"size": SIZE},
    "SegformerImageProcessor": {"size": SIZE},
    "SiglipImageProcessor": {"size": SIZE},
    "ViTImageProcessor": {"size": SIZE, "resample": 0, "do_normalize": False},
    "YolosImageProcessor": {"size": {"height": 40, "width": 48}},
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_steps_make_the_pixels_that_the_processor_makes(name: str) -> None:
    processor = getattr(transformers, name.split()[0])(**PROCESSORS[name])
    steps, (height, width) = image_steps(processor)
    spec = TensorSpec("pixel_values", "float32", ("batch", 3, height, width))
    out = TensorSpec("embedding", "float32", ("batch", 2))
    read = declared_steps(Declared("embedding", (spec,), (out,), steps, ())).open(no_file, None)
    for image in (picture(57, 41), picture(33, 80, seed=2)):
        wanted = processor(image, return_tensors="np")["pixel_values"][0]
        found = read(np.asarray(image)).tensors["pixel_values"]
        assert found.shape == (3, height, width)
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("DetrImageProcessor", {}, "each picture has a size of its own"),
        ("CLIPImageProcessor", {"do_center_crop": False}, "a size of its own, which no step"),
        ("ViTImageProcessor", {"resample": 4}, "Pillow's filter 4, which no step does"),
        ("DPTImageProcessor", {"keep_aspect_ratio": True}, "own ratio of sides"),
        ("PerceiverImageProcessor", {}, "no steps are known that do the same; known are Beit"),
    ],
)
def test_a_processor_that_steps_cannot_express_is_refused(
    name: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        image_steps(getattr(transformers, name)(**settings))


def test_a_sound_is_heard_as_wav2vec2_hears_it(tmp_path: Path) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    model = saved(tmp_path, "Wav2Vec2ForSequenceClassification", extractor, **SOUND, num_labels=3)
    ours = opened(tmp_path, seconds=0.25)
    assert ours.interface.task == "audio-classification"
    assert ours.interface.inputs[0].shape == ("batch", 4000)
    samples = clip(4000)
    wanted = extractor(samples, sampling_rate=RATE, return_tensors="pt")["input_values"]
    feeds, result = Device(ours)(samples)
    np.testing.assert_allclose(feeds["input_values"], wanted, atol=1e-5)
    scores = softmax(model(wanted).logits)[0]
    assert result.score == pytest.approx(scores.max(), abs=1e-5)


def test_a_sound_is_heard_as_the_spectrogram_transformer_hears_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.models.audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer as module  # noqa: E501

    monkeypatch.setattr(module, "is_speech_available", lambda: False)
    extractor = transformers.ASTFeatureExtractor(max_length=48, num_mel_bins=32)
    model = saved(
        tmp_path, "ASTForAudioClassification", extractor, **SMALL, patch_size=8, max_length=48,
        num_mel_bins=32, frequency_stride=8, time_stride=8, num_labels=4,
    )  # fmt: skip
    ours = opened(tmp_path)
    for count in (5000, 9000):  # fewer frames than the model has, and more
        samples = clip(count)
        wanted = extractor(samples, sampling_rate=RATE, return_tensors="pt")["input_values"]
        feeds, result = Device(ours)(samples)
        np.testing.assert_allclose(feeds["input_values"], wanted, atol=1e-4)
        scores = softmax(model(wanted).logits)[0]
        assert result.label == f"LABEL_{scores.argmax()}"
        assert result.score == pytest.approx(scores.max(), abs=1e-4)


def test_features_are_whispers_whatever_the_length() -> None:
    extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    sound = sound_steps(extractor, seconds=1.0)
    assert (sound.input, sound.shape) == ("input_features", (80, 200))
    spec = TensorSpec(sound.input, "float32", ("batch", *sound.shape))
    out = TensorSpec("embedding", "float32", ("batch", 2))
    read = declared_steps(Declared("embedding", (spec,), (out,), sound.steps, ())).open(
        no_file, None
    )
    for count in (20_000, 32_000, 40_000):
        samples = clip(count)
        wanted = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(read(samples).tensors[sound.input], wanted, atol=1e-4)


def test_a_text_gets_the_spans_that_the_librarys_pipeline_finds(tmp_path: Path) -> None:
    tokenizer = tokenized(tmp_path)
    model = saved(
        tmp_path, "BertForTokenClassification", **TEXT, id2label=TAGS, num_labels=len(TAGS)
    )
    ours = opened(tmp_path)
    assert ours.interface.task == "token-classification"
    text = "Anna sees the cat in Paris and Otto likes Berlin"
    pipe = transformers.pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple"
    )
    wanted = [one for one in pipe(text) if one["entity_group"] != "O"]
    _, result = Device(ours)(text)
    assert wanted
    assert [(one.label, one.start, one.end) for one in result.spans] == [
        (one["entity_group"], one["start"], one["end"]) for one in wanted
    ]
    assert [one.score for one in result.spans] == pytest.approx(
        [float(one["score"]) for one in wanted], abs=1e-5
    )


def test_two_texts_are_told_apart(tmp_path: Path) -> None:
    tokenizer = tokenized(tmp_path)
    model = saved(tmp_path, "BertForSequenceClassification", **TEXT, num_labels=3)
    ours = opened(tmp_path, task="text-pair-classification")
    pair = ("the cat sat", "a dog ran in Paris")
    feeds, result = Device(ours)(pair)
    wanted = tokenizer(*pair, return_tensors="pt")
    for name, value in wanted.items():
        np.testing.assert_array_equal(feeds[name], value)
    scores = softmax(model(**wanted).logits)[0]
    assert result.score == pytest.approx(scores.max(), abs=1e-6)


def test_one_label_is_a_number_and_several_at_once_are_no_competitors(tmp_path: Path) -> None:
    tokenized(tmp_path)
    saved(tmp_path, "BertForSequenceClassification", **TEXT, num_labels=1)
    side = opened(tmp_path).interface
    assert (side.task, side.postprocess[0].step) == ("regression", "values")
    saved(tmp_path, "BertForSequenceClassification", **TEXT, num_labels=3,
          problem_type="multi_label_classification")  # fmt: skip
    assert [one.step for one in opened(tmp_path).interface.postprocess] == ["sigmoid", "top_k"]


def test_boxes_are_those_of_the_librarys_own_postprocessing(tmp_path: Path) -> None:
    processor = transformers.YolosImageProcessor(size={"height": 32, "width": 48})
    model = saved(
        tmp_path, "YolosForObjectDetection", processor, **{**VIT, "image_size": [32, 48]},
        num_detection_tokens=12, num_labels=3,
    )  # fmt: skip
    with torch.no_grad():  # sure of something
        model.class_labels_classifier.layers[-1].weight.mul_(8)
    model.save_pretrained(tmp_path)
    image = picture(90, 70)
    given = processor(image, return_tensors="pt")
    (wanted,) = processor.post_process_object_detection(
        model(given["pixel_values"]), threshold=0.5, target_sizes=[(70, 90)]
    )
    _, result = Device(opened(tmp_path))(np.asarray(image))
    order = wanted["scores"].argsort(descending=True)
    assert len(order)
    limits = np.array([90, 70, 90, 70])
    assert [one.label for one in result.boxes] == [
        f"LABEL_{one}" for one in wanted["labels"][order].tolist()
    ]
    np.testing.assert_allclose(
        [one.corners for one in result.boxes],
        wanted["boxes"][order].detach().numpy().clip(0, limits), atol=1e-3,
    )  # fmt: skip


def test_a_segmenters_points_have_the_largest_class(tmp_path: Path) -> None:
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    model = saved(
        tmp_path, "SegformerForSemanticSegmentation", processor, num_labels=4,
        hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2],
        decoder_hidden_size=16,
    )  # fmt: skip
    image = picture()
    wanted = model(**processor(image, return_tensors="pt")).logits.argmax(1)[0]
    _, result = Device(opened(tmp_path))(np.asarray(image))
    np.testing.assert_array_equal(result.classes, wanted)


CLIP = {
    "text_config": {**TEXT, "eos_token_id": 3, "projection_dim": 16},
    "vision_config": {**VIT, "projection_dim": 16},
    "projection_dim": 16,
}


def test_each_tower_of_a_clip_is_a_model_of_its_own(tmp_path: Path) -> None:
    tokenizer = tokenized(tmp_path)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)
    model = saved(tmp_path, "CLIPModel", processor, **CLIP)
    with pytest.raises(InputError, match="has two towers; say which: text or image"):
        opened(tmp_path)
    _, text = Device(opened(tmp_path, tower="text"))("the cat sat")
    image = picture()
    _, seen = Device(opened(tmp_path, tower="image"))(np.asarray(image))
    with torch.no_grad():
        tokens = tokenizer("the cat sat", return_tensors="pt")
        wanted = (
            model.get_text_features(tokens["input_ids"], tokens["attention_mask"])[0],
            model.get_image_features(**processor(image, return_tensors="pt"))[0],
        )
    for found, vector in zip((text.vector, seen.vector), wanted, strict=True):
        np.testing.assert_allclose(found, vector / vector.norm(), atol=1e-5)


def test_siglips_text_tower_reads_as_many_tokens_as_it_was_trained_on(tmp_path: Path) -> None:
    model = saved(
        tmp_path, "SiglipModel", text_config={**TEXT, "pad_token_id": 1, "projection_size": 32},
        vision_config=VIT,
    )  # fmt: skip
    ours = opened(tmp_path, tower="text")
    ids = np.arange(5, 12)[None]
    filled = torch.ones(1, 32, dtype=torch.int64)
    filled[:, :7] = torch.from_numpy(ids)
    with torch.no_grad():
        wanted = model.get_text_features(filled)
    np.testing.assert_allclose(ours.run({"input_ids": ids})["embedding"], wanted, atol=1e-5)


def test_embeddings_are_pooled_as_the_architecture_does(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("text", "image", "plain", "sound")]
    ids = np.array([[2, 5, 6, 3, 0]])
    mask = np.array([[1, 1, 1, 1, 0]])
    bert = saved(folders[0], "BertModel", **TEXT)
    with torch.no_grad():
        hidden = bert(torch.from_numpy(ids), torch.from_numpy(mask))[0]
    found = opened(folders[0]).run({"input_ids": ids, "attention_mask": mask})["embedding"]
    np.testing.assert_allclose(found, hidden[:, :4].mean(dim=1), atol=1e-5)

    noise = torch.randn(2, 3, 32, 32)
    vit = saved(folders[1], "ViTModel", **VIT)
    # The body of a classifier has no pooler: its class token it is.
    plain = saved(folders[2], "ViTForImageClassification", **VIT)
    with torch.no_grad():
        pooled, token = vit(noise).pooler_output, plain.vit(noise)[0][:, 0]
    feeds = {"pixel_values": noise.numpy()}
    np.testing.assert_allclose(opened(folders[1]).run(feeds)["embedding"], pooled, atol=1e-5)
    ours = opened(folders[2], task="embedding")
    np.testing.assert_allclose(ours.run(feeds)["embedding"], token, atol=1e-5)

    sound = saved(folders[3], "HubertModel", **SOUND)
    samples = torch.randn(1, RATE)
    with torch.no_grad():
        mean = sound(samples)[0].mean(dim=1)
    ours = opened(folders[3])
    np.testing.assert_allclose(
        ours.run({"input_values": samples.numpy()})["embedding"], mean, atol=1e-4
    )


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": []}, "names no architectures"),
        ({"architectures": ["MyOwnModel"], "auto_map": {"AutoModel": "own.MyOwnModel"}},
         "is not in transformers .*, and code of the folder is never run"),
        ({"architectures": ["AutoModel"]}, "'AutoModel' is not in transformers"),
        ({"model_type": "mine"}, r"config.json cannot be used \(The checkpoint you are trying"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, at most 4096"),
        ({"num_hidden_layers": 3}, "of its weights are missing, such as"),
        ({"vocab_size": 10**9}, "numbers, the weights have"),
        ({"hidden_size": 36}, "cannot be loaded"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    saved(tmp_path, "BertForSequenceClassification", **TEXT)
    (tmp_path / "own.py").write_text("raise SystemExit('ran')\n")
    edited(tmp_path, **changes)
    with pytest.raises(InputError, match=words) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_weights_are_read_as_tensors_and_never_run(tmp_path: Path) -> None:
    model = saved(tmp_path, "BertForSequenceClassification", **TEXT)
    (tmp_path / "model.safetensors").unlink()
    weights = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), weights)
    assert opened(tmp_path).describe().parameters > 0
    torch.save({**model.state_dict(), "more": Touches(tmp_path / "ran")}, weights)
    with pytest.raises(InputError, match="model model: cannot be loaded"):
        opened(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    saved(tmp_path, "BertForSequenceClassification", **TEXT)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be loaded .*[Ii]ncomplete"):
        opened(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match=r"none of \*\.safetensors"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json is no object"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("image-classification", "is for text-classification, not for image-classification"),
        ("token-classification", "is for text-classification, not for token-classification"),
    ],
)
def test_a_task_that_the_head_does_not_serve_is_refused(
    task: str, words: str, tmp_path: Path
) -> None:
    saved(tmp_path, "BertForSequenceClassification", **TEXT)
    with pytest.raises(InputError, match=words):
        opened(tmp_path, task=task)


def test_the_licence_is_what_the_folder_says(tmp_path: Path) -> None:
    saved(tmp_path, "BertForSequenceClassification", **TEXT)
    assert opened(tmp_path).licence == "unknown"
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n")
    assert opened(tmp_path).licence == "apache-2.0"
    assert open_huggingface(tmp_path, name="m", licence="MIT").licence == "MIT"


def test_the_digest_covers_what_shapes_the_answers(tmp_path: Path) -> None:
    saved(tmp_path, "BertForSequenceClassification", **TEXT)
    first = opened(tmp_path).sha256
    (tmp_path / "README.md").write_text("# Words\n")
    assert opened(tmp_path).sha256 == first
    digests = {first, opened(tmp_path, task="embedding").sha256}
    tokenized(tmp_path)
    digests.add(opened(tmp_path).sha256)
    edited(tmp_path, layer_norm_eps=1e-3)
    digests.add(opened(tmp_path).sha256)
    assert len(digests) == 4
