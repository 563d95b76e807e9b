"""A trimmed tokenizer cuts texts as before, and the encoder answers as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, CamembertConfig, MPNetConfig, RobertaConfig

from converters.cache import Cache
from converters.data import load_dataset
from converters.encoding import collate, encode, load_tokenizer
from converters.model import Artifact, Job, TextModel
from converters.network import load_encoder, mean_pool
from converters.pipeline import Options, convert
from converters.progress import Silent
from converters.recipe import load_recipe
from converters.source import load_source
from converters.vocabulary.config import VocabularyConfig
from converters.vocabulary.tokens import MODELS, choose, ids_of, parts_of, rebuild, special_ids
from converters.vocabulary.trim import trim
from edge_runtime.errors import InputError
from edge_runtime.profile import DeviceProfile
from tests.converters.small import as_lines, rows, write_recipe

TEXTS = [row["text"] for row in rows("train")[:400]]
OTHERS = [row["text"] for row in rows("calibration")[:200]]
KEPT = VocabularyConfig(min_count=1, size=0, characters="all")
BERTISH = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTISH = ["<s>", "<pad>", "</s>", "<unk>"]


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=3000, special_tokens=BERTISH, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=ROBERTISH, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens(["<mask>"])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=3000, special_tokens=ROBERTISH, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens(["<mask>"])  # beside the model's own, as XLM-RoBERTa has it
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


@dataclass(frozen=True)
class Kind:
    tokenizer: Callable[[], Tokenizer]
    config: Any
    pad_id: int


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32, "max_position_embeddings": 80}  # fmt: skip
KINDS = {
    "WordPiece": Kind(wordpiece, BertConfig, 0),
    "BPE": Kind(byte_level, RobertaConfig, 1),
    "Unigram": Kind(unigram, CamembertConfig, 1),
}


@cache
def document(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(KINDS[kind].tokenizer().to_str())
    return found


@cache
def halves(kind: str) -> tuple[Tokenizer, Tokenizer, frozenset[str]]:
    """A tokenizer, the same with only what a quarter of its texts needs, and what that keeps."""
    from converters.vocabulary.tokens import single_ids

    whole = document(kind)
    before = Tokenizer.from_str(json.dumps(whole))
    counts: dict[int, int] = {}
    for one in before.encode_batch(TEXTS[:100]):
        for token in one.ids:
            counts[token] = counts.get(token, 0) + 1
    always = special_ids(whole) | single_ids(whole, None)
    kept = choose(counts, always, parts_of(whole), min_count=2, size=0)
    made, _ = rebuild(whole, kept)
    names = {place: token for token, place in ids_of(whole).items()}
    return before, Tokenizer.from_str(json.dumps(made)), frozenset(names[one] for one in kept)


def write_source(folder: Path, kind: str) -> Path:
    """A Hugging Face folder with random weights and a tokenizer of that kind."""
    torch.manual_seed(5)
    made = KINDS[kind]
    config = made.config(
        vocab_size=len(ids_of(document(kind))) + 3, pad_token_id=made.pad_id, **SIZES
    )
    AutoModel.from_config(config).save_pretrained(folder)
    Tokenizer.from_str(json.dumps(document(kind))).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def job(workshop: Path, board: DeviceProfile, tmp_path: Path) -> Job:
    recipe = load_recipe(workshop / "recipe.toml")
    data = load_dataset(recipe.data, recipe.task)
    return Job(recipe, board, data, Cache(tmp_path / "cache"), Silent(), tmp_path)


def model_of(kind: str, job: Job, folder: Path) -> TextModel:
    write_source(folder, kind)
    config = replace(job.recipe.source, model=str(folder))
    source = load_source(config, base=folder, max_length=8)
    return TextModel(source, Artifact.of(folder / "tokenizer.json"), folder, source.sha256)


def embeddings(model: TextModel, texts: list[str]) -> torch.Tensor:
    """(texts, hidden), all in one padded batch: the padding's id counts too."""
    batch = collate(
        encode(load_tokenizer(model.tokenizer.path, max_length=60), texts), model.source.pad_id
    )
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    with torch.inference_mode():
        return mean_pool(load_encoder(model.encoder)(ids, mask)[0], mask)


@pytest.mark.parametrize("kind", MODELS)
def test_counted_texts_keep_their_pieces_and_their_embeddings(
    kind: str, job: Job, tmp_path: Path
) -> None:
    model = model_of(kind, job, tmp_path / "encoder")
    done, figures = trim(model, KEPT, job)
    texts = list(job.data.calibration.texts)
    before = Tokenizer.from_file(str(model.tokenizer.path))
    after = Tokenizer.from_file(str(done.tokenizer.path))
    assert after.get_vocab_size() == figures["after"] == done.source.vocabulary
    assert figures["after"] < 0.9 * before.get_vocab_size()
    assert figures["changed"] == 0
    for old, new in zip(before.encode_batch(texts), after.encode_batch(texts), strict=True):
        assert old.tokens == new.tokens
        assert old.offsets == new.offsets
        assert old.special_tokens_mask == new.special_tokens_mask
    torch.testing.assert_close(embeddings(done, texts), embeddings(model, texts))


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_text_whose_pieces_are_kept_is_cut_as_before(kind: str, data: st.DataObject) -> None:
    words = sorted({word for text in TEXTS[:100] + OTHERS for word in text.split()})
    text = data.draw(
        st.one_of(st.text(max_size=40), st.lists(st.sampled_from(words), max_size=8).map(" ".join))
    )
    before, after, kept = halves(kind)
    old, new = before.encode(text), after.encode(text)
    if set(old.tokens) <= kept:
        assert new.tokens == old.tokens
        assert new.offsets == old.offsets
    assert new.tokens[0] == old.tokens[0]
    assert new.tokens[-1] == old.tokens[-1]
    assert max(new.ids) < after.get_vocab_size()
    unknown = {"WordPiece": "[UNK]", "Unigram": "<unk>", "BPE": None}[kind]
    assert (unknown in new.tokens) == (unknown in old.tokens), "smaller pieces, never unknown"


@pytest.mark.parametrize("kind", MODELS)
def test_a_removed_word_falls_into_smaller_pieces(kind: str) -> None:
    before, after, kept = halves(kind)
    changed = [text for text in OTHERS if not set(before.encode(text).tokens) <= kept]
    assert len(changed) > 20
    for text in changed:
        assert after.encode(text).tokens != before.encode(text).tokens
        assert set(after.encode(text).tokens) - set(before.encode(text).tokens) <= kept


def test_the_share_of_changed_texts_is_the_true_one(job: Job, tmp_path: Path) -> None:
    model = model_of("WordPiece", job, tmp_path / "encoder")
    done, figures = trim(model, replace(KEPT, size=1000), job)
    assert figures["after"] == 1000
    before = Tokenizer.from_file(str(model.tokenizer.path))
    after = Tokenizer.from_file(str(done.tokenizer.path))
    assert job.data.train is not None
    texts = list(dict.fromkeys(job.data.train.texts + job.data.calibration.texts))
    differ = [before.encode(text).tokens != after.encode(text).tokens for text in texts]
    assert figures["changed"] == pytest.approx(sum(differ) / len(texts))
    assert 0 < sum(differ) < len(texts)


def test_new_texts_change_about_as_often_as_was_said(job: Job, tmp_path: Path) -> None:
    model = model_of("WordPiece", job, tmp_path / "encoder")
    done, figures = trim(model, KEPT, job)
    after = Tokenizer.from_file(str(done.tokenizer.path))
    before = Tokenizer.from_file(str(model.tokenizer.path))
    new = job.data.test.texts
    changed = sum(before.encode(one).tokens != after.encode(one).tokens for one in new) / len(new)
    said = figures["new_texts_changed"]
    assert isinstance(said, float)
    assert abs(said - changed) < 0.12
    assert changed > 0


def test_characters_that_no_text_holds_may_go(job: Job, tmp_path: Path) -> None:
    model = model_of("Unigram", job, tmp_path / "encoder")
    all_kept, _ = trim(model, KEPT, job)
    fewer, figures = trim(model, replace(KEPT, characters="seen"), job)
    assert fewer.source.vocabulary < all_kept.source.vocabulary
    assert figures["changed"] == 0


@pytest.mark.parametrize("config", [RobertaConfig, MPNetConfig])
def test_the_paddings_id_stays_where_positions_are_counted_from_it(
    config: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "BPE", Kind(byte_level, config, 1))
    model = model_of("BPE", job, tmp_path / "encoder")
    done, _ = trim(model, KEPT, job)
    assert done.source.pad_id == 1
    assert load_encoder(done.encoder).config.pad_token_id == 1
    assert load_encoder(done.encoder).get_input_embeddings().padding_idx == 1


def test_it_is_cached_by_its_texts_and_its_settings(job: Job, tmp_path: Path) -> None:
    model = model_of("WordPiece", job, tmp_path / "encoder")
    first, figures = trim(model, KEPT, job)
    again, cached = trim(model, KEPT, job)
    assert (figures["cached"], cached["cached"]) == (False, True)
    assert again == first
    fewer = replace(job, data=replace(job.data, train=None))
    other, figures = trim(model, KEPT, fewer)
    assert figures["cached"] is False
    assert other.source.vocabulary < first.source.vocabulary


def test_a_size_without_room_for_the_characters_is_refused(job: Job, tmp_path: Path) -> None:
    model = model_of("WordPiece", job, tmp_path / "encoder")
    with pytest.raises(InputError, match=r"size is 20, but .* must stay"):
        trim(model, replace(KEPT, size=20), job)


def test_another_kind_of_tokenizer_is_refused_by_name(job: Job, tmp_path: Path) -> None:
    model = model_of("WordPiece", job, tmp_path / "encoder")
    path = tmp_path / "words.json"
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    strange = replace(model, tokenizer=Artifact.of(path))
    with pytest.raises(InputError, match=r"'WordLevel' cannot be trimmed.*WordPiece, BPE, Unigram"):
        trim(strange, KEPT, job)


def test_a_trimmed_classifier_is_packed_and_agrees_with_the_whole_one(
    workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    text = (workshop / "recipe.toml").read_text()
    (workshop / "more.jsonl").write_text(as_lines([{"text": row["text"]} for row in rows("train")]))
    text = text.replace(
        "[data]", '[data]\nunlabelled = "more.jsonl"'
    )  # the words of 240 texts are few
    at = text.index('[[pass]]\nkind = "export"')
    path = workshop / "trimmed.toml"
    path.write_text(text[:at] + '[[pass]]\nkind = "vocabulary"\nsize = 5900\n' + text[at:])
    one_engine = replace(board, engines=board.engines[:1])
    (done,) = convert(path, [one_engine], Options(tmp_path, cache_folder), Silent())
    figures = done.passes["vocabulary"]
    assert figures["after"] < 0.5 * figures["before"]  # type: ignore[operator]
    assert done.model.verdict is not None
    assert done.model.verdict.candidates[0].agreement > 0.9


def test_the_recipe_is_read(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.toml", passes='[[pass]]\nkind = "vocabulary"\nsize = -1\n')
    with pytest.raises(InputError, match="size"):
        load_recipe(path)
