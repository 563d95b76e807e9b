"""A model that cannot be converted is refused before anything heavy looks at it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from converters.network import load_encoder
from converters.recipe import SourceConfig
from converters.source import Source, load_source
from edge_runtime.errors import InputError
from tests.converters.small import HEADS, HIDDEN, POSITIONS, VOCABULARY


@pytest.fixture
def folder(workshop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop / "encoder", tmp_path / "encoder"))


def load(folder: Path, max_length: int = 48) -> Source:
    return load_source(SourceConfig(folder.name, "MIT"), base=folder.parent, max_length=max_length)


def reconfigure(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_folder_is_described(folder: Path) -> None:
    source = load(folder)
    assert (source.architecture, source.hidden, source.heads) == ("bert", HIDDEN, HEADS)
    assert (source.max_positions, source.vocabulary, source.pad_id) == (POSITIONS, VOCABULARY, 0)


def test_its_digest_covers_configuration_weights_and_tokenizer(folder: Path) -> None:
    before = load(folder).sha256
    assert load(folder).sha256 == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert load(folder).sha256 != before
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load(folder)


def test_a_generator_is_refused(folder: Path) -> None:
    reconfigure(folder, model_type="gpt2")
    with pytest.raises(InputError, match=r"'gpt2' is not a text encoder .* bert, camembert"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"model_type": "bert"}'])
def test_a_faulty_configuration_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_size": 10**9},
        {"vocab_size": 10**9},
        {"intermediate_size": 10**9},
        {"num_hidden_layers": 10**6},
        {"max_position_embeddings": 10**9},
        {"edge_layers": [{"heads": 10**6, "intermediate": 10**9}, {"heads": 1, "intermediate": 1}]},
    ],
)
def test_sizes_that_the_weights_cannot_hold_are_refused(
    folder: Path, changed: dict[str, Any]
) -> None:
    """Before memory is spent on them."""
    reconfigure(folder, **changed)
    with pytest.raises(InputError, match=r"config\.json says .* numbers .* weights has .* bytes"):
        load(folder)


def test_more_tokens_than_positions_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="takes at most 64 tokens, max_length is 65"):
        load(folder, 65)
    reconfigure(folder, model_type="roberta", pad_token_id=1)
    assert load(folder, 62).max_positions == 62, "it counts positions from the padding on"
    with pytest.raises(InputError, match="at most 62"):
        load(folder, 63)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_source(SourceConfig(name, "MIT"), base=tmp_path, max_length=8)


def test_a_model_that_is_not_in_the_hubs_cache_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be fetched from Hugging Face") as caught:
        load_source(SourceConfig("nobody/nothing", "MIT"), base=tmp_path, max_length=8)
    assert "\n" not in str(caught.value)


def test_what_the_hub_says_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "The files are not on the local disk. Please check your internet connection and\ntry"

    def refuse(*_: object, **__: object) -> None:
        raise OSError(f"{said} again.{' Words.' * 100}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(InputError, match=r"connection and try again\.( Words\.)+\)$"):
        load_source(SourceConfig("nobody/nothing", "MIT"), base=tmp_path, max_length=8)


@pytest.mark.parametrize("name", ["no-such-package-here", "", "..", "json"])
def test_a_package_without_a_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="package"):
        load_source(SourceConfig(f"python-package:{name}", "MIT"), base=tmp_path, max_length=8)


def test_weights_of_another_network_are_refused_not_replaced_by_random_ones(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 of its weights .* encoder\.layer\.1\.output\.dense"):
        load_encoder(folder)


def test_damaged_weights_are_one_sentence(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)
