"""What is no picture, or too much of one, is told in a sentence before it costs anything."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.image import CenterCrop, DecodeImage, Normalize, Resize
from edge_runtime.inference.tasks.segment import ClassMap


def step(kind: Any, **options: Any) -> Any:
    return kind.parse(Fields(options, "step", IncompatibleError))


def file(form: str, size: tuple[int, int] = (30, 20)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(out, form)
    return out.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (claims(10_000, 10_000), "10000 × 10000 are 100000000 pixels, at most 33554432"),
        (claims(30_000, 30_000), "pixels or more, at most 33554432 are decoded"),
        (claims(1 << 30, 1 << 30), "at most 33554432|damaged"),
        (claims(100, 100), "damaged"),
        (b"", "its 0 bytes begin with b''"),
        (b"GIF89a" + bytes(100), "not a JPEG or PNG file"),
        (file("JPEG")[:300], "not a JPEG or PNG file, or damaged"),
        (file("PNG")[:100], "damaged"),
        (file("BMP"), "not a JPEG or PNG file"),
        (bytes(17 << 20), "17825792 bytes, at most 16777216"),
        ("photo.jpg", "expected the bytes of a JPEG or PNG file, found str"),
        (None, "found None"),
        (np.zeros((4, 4, 4), np.uint8), r"found uint8 of \[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), "found float32"),
        (np.zeros((0, 4, 3), np.uint8), "4 × 0 pixels"),
    ],
)
def test_what_is_no_picture_is_refused(raw: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        step(DecodeImage)(raw)


def test_a_picture_that_is_a_line_is_not_made_endless() -> None:
    line = step(DecodeImage)(np.zeros((1, 2000, 3), np.uint8))
    with pytest.raises(InputError, match="2000 × 1 pixels become 448000 long"):
        step(Resize, width=224, fit="shortest")(line)


def test_colours_come_in_the_models_order() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert step(DecodeImage, order="BGR")(red).pixels[0, 0].tolist() == [0, 0, 255]
    assert step(DecodeImage, order="L")(red).pixels.shape == (2, 2, 1)
    assert step(DecodeImage)(red[..., 0]).pixels.shape == (2, 2, 3), "grey becomes three channels"


def test_values_have_the_models_layout() -> None:
    picture = step(DecodeImage)(file("PNG"))
    first = step(Normalize, mean=[0.5], std=[0.5])(picture).tensors["pixel_values"]
    last = step(Normalize, layout="NHWC", input="x", scale=1.0)(picture).tensors["x"]
    assert (first.shape, last.shape) == ((3, 20, 30), (20, 30, 3))
    np.testing.assert_array_equal(last, picture.pixels)
    np.testing.assert_allclose(first, last.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (Resize, {"width": 0}, "width is 0"),
        (Resize, {"width": 8, "fit": "squash"}, "fit"),
        (Resize, {"width": 8, "height": 9, "fit": "shortest"}, "height must be width"),
        (CenterCrop, {"width": 1 << 20}, "width is"),
        (Normalize, {"std": [0.0]}, "std must hold numbers above 0"),
        (Normalize, {"mean": [0.1, 0.2, 0.3]}, "mean holds 3 numbers, std 1"),
        (DecodeImage, {"max_pixels": 1 << 40}, "max_pixels is"),
        (ClassMap, {"labels": []}, "labels is empty"),
    ],
)
def test_a_faulty_option_is_named(kind: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(IncompatibleError, match=told):
        step(kind, **options)


def test_a_map_of_classes_says_what_it_covers() -> None:
    picture = step(Resize, width=64, fit="letterbox")(step(DecodeImage)(file("PNG", (320, 160))))
    scores = np.zeros((2, 16, 16), np.float32)
    scores[1, :, 8:] = 1
    mask = step(ClassMap, labels=["sky", "sea"])(scores, picture)
    assert mask.shares() == {"sky": 0.5, "sea": 0.5}
    assert mask.corners == (0, 0, 320, 160)
    assert mask.as_json()["runs"] == [[0, 8], [1, 8]] * 16
    assert (
        step(ClassMap, labels=["sky", "sea"], layout="NHWC")(
            scores.transpose(1, 2, 0), picture
        ).shares()
        == mask.shares()
    )
    with pytest.raises(IncompatibleError, match="for 2 labels"):
        step(ClassMap, labels=["sky", "sea"])(scores[:1], picture)


def test_as_many_means_as_channels_or_one_are_taken() -> None:
    grey = step(DecodeImage, order="L")(file("PNG"))
    with pytest.raises(InputError, match="hold 3 numbers, the picture has 1 channel"):
        step(Normalize, mean=[0.5] * 3, std=[0.5] * 3)(grey)
    assert step(Normalize, mean=[0.5], std=[0.5])(grey).tensors["pixel_values"].shape == (1, 20, 30)
