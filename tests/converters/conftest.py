"""A small real network and small real data, made once a session; only where the toolchain is."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from converters.cli import main
from converters.encoding import Encoded
from converters.model import TextModel
from converters.pipeline import Conversion, Options, convert
from converters.progress import Silent
from edge_runtime.profile import DeviceProfile, load_profile
from tests.converters.small import (
    HEADS,
    HIDDEN,
    MAX_LENGTH,
    PROFILE,
    EdgeConvert,
    picked,
    write_data,
    write_encoder,
    write_recipe,
)

if TYPE_CHECKING:
    from converters.network import TextNetwork

TOOLCHAIN = ("torch", "transformers", "onnx", "litert_torch", "ai_edge_quantizer", "jinja2")
if os.environ.get("EDGE_ALL_HERE") != "1" and not all(map(find_spec, TOOLCHAIN)):  # a device
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `encoder/`, the data, `recipe.toml`, `recipe-v2.toml` and `board.toml`."""
    folder = tmp_path_factory.mktemp("workshop")
    write_data(folder)
    write_encoder(folder / "encoder")
    write_recipe(folder / "recipe.toml")
    write_recipe(
        folder / "recipe-v2.toml",
        version='"2.0.0"',
        seed="2",
        finetune={
            "continue_from": '"recipe.toml"', "freeze_backbone": "true", "epochs": "3",
            "head_lr": "1e-3", "batch": "16",
        },
    )  # fmt: skip
    (folder / "board.toml").write_text(PROFILE)
    return folder


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the session: what a test computes, others reuse."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def board(workshop: Path) -> DeviceProfile:
    return load_profile(str(workshop / "board.toml"))


@pytest.fixture(scope="session")
def converted(
    workshop: Path,
    cache_folder: Path,
    board: DeviceProfile,
    tmp_path_factory: pytest.TempPathFactory,
) -> Conversion:
    """Version 1, converted whole."""
    options = Options(tmp_path_factory.mktemp("v1"), cache_folder)
    (done,) = convert(workshop / "recipe.toml", [board], options, Silent())
    return done


@pytest.fixture(scope="session")
def continued(
    workshop: Path,
    cache_folder: Path,
    board: DeviceProfile,
    converted: Conversion,
    tmp_path_factory: pytest.TempPathFactory,
) -> Conversion:
    """Version 2: the head of version 1, trained further."""
    options = Options(tmp_path_factory.mktemp("v2"), cache_folder)
    (done,) = convert(workshop / "recipe-v2.toml", [board], options, Silent())
    return done


@pytest.fixture(scope="session")
def trained(converted: Conversion) -> TextModel:
    """Version 1 after training: an encoder and a head."""
    return converted.text


@pytest.fixture
def edge_convert(cache_folder: Path, capfd: pytest.CaptureFixture[str]) -> EdgeConvert:
    """The command in this process: arguments → exit code, stdout, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        if words[0] == "run":
            words += ["--cache", str(cache_folder)]
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def network(trained: TextModel) -> TextNetwork:
    """The trained network, in torch."""
    from converters.network import load_network

    return load_network(trained.encoder, trained.head)


@pytest.fixture(scope="session")
def texts(trained: TextModel) -> tuple[Encoded, ...]:
    """Calibration texts as tokens, of many lengths, the first ones cut to a few words."""
    from converters.encoding import encode, load_tokenizer

    tokenizer = load_tokenizer(trained.tokenizer.path, max_length=MAX_LENGTH)
    found = [row["text"] for row in picked("calibration", 10)]
    short = [" ".join(text.split()[:5]) for text in found[:6]]
    return encode(tokenizer, short + found[6:])


@pytest.fixture(scope="session")
def plain_onnx(network: TextNetwork) -> bytes:
    """The network as ONNX, without fused operators."""
    from converters.export.onnx import export_onnx

    return export_onnx(network, opset=17)


@pytest.fixture(scope="session")
def fused_onnx(plain_onnx: bytes) -> bytes:
    from converters.fuse import fuse_onnx

    return fuse_onnx(plain_onnx, architecture="bert", heads=HEADS, hidden=HIDDEN)[0]


@pytest.fixture(scope="session")
def litert_file(network: TextNetwork) -> bytes:
    """The network for LiteRT, with entry points for 16 and 48 tokens."""
    from converters.export.litert import export_litert

    return export_litert(network, lengths=(16, MAX_LENGTH))
