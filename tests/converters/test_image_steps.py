"""What the device sees is what the networks were trained to see: transformers' own processors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    BeitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    MobileViTImageProcessor,
    ViTImageProcessor,
)

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.image import CenterCrop, DecodeImage, Normalize, Resize

PROCESSORS: dict[str, tuple[Any, Sequence[tuple[str, dict[str, Any]]]]] = {
    "ViT": (ViTImageProcessor(size={"height": 96, "width": 96}), [("resize", {"width": 96})]),
    "DeiT": (
        DeiTImageProcessor(size={"height": 100, "width": 100},
                           crop_size={"height": 96, "width": 96}),
        [("resize", {"width": 100, "filter": "bicubic"}), ("crop", {"width": 96})],
    ),
    "CLIP": (
        CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
        [("resize", {"width": 96, "fit": "shortest", "filter": "bicubic"}),
         ("crop", {"width": 96})],
    ),
    "ConvNeXt": (
        ConvNextImageProcessor(size={"shortest_edge": 84}, crop_pct=0.875),
        [("resize", {"width": 96, "fit": "shortest", "filter": "bilinear"}),
         ("crop", {"width": 84})],
    ),
    "BEiT": (
        BeitImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False),
        [("resize", {"width": 64, "filter": "bicubic"})],
    ),
    "MobileViT": (
        MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}),
        [("resize", {"width": 72, "fit": "shortest"}), ("crop", {"width": 64})],
    ),
}  # fmt: skip
KINDS = {"resize": Resize, "crop": CenterCrop}


def made(kind: Any, **options: Any) -> Any:
    return kind.parse(Fields(options, "step", IncompatibleError))


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours with an edge, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 40) + y / rng.uniform(2, 40)) for _ in range(3)]
    pixels = np.stack(waves, axis=-1) * 100 + 127
    pixels[height // 3 :, width // 3 :] += 60
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(PROCESSORS)),
    width=st.integers(20, 260),
    height=st.integers(20, 260),
    seed=st.integers(0, 100),
)
def test_pixels_are_those_of_the_reference(name: str, width: int, height: int, seed: int) -> None:
    processor, steps = PROCESSORS[name]
    image = picture(width, height, seed)
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    seen = made(DecodeImage)(np.asarray(image))
    for kind, options in steps:
        seen = made(KINDS[kind], **options)(seen)
    if name == "MobileViT":  # its networks take BGR
        item = made(Normalize)(made(DecodeImage, order="BGR")(seen.pixels))
    else:
        item = made(Normalize, mean=list(processor.image_mean), std=list(processor.image_std))(seen)
    ours = item.tensors["pixel_values"]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_file_is_decoded_as_the_reference_decodes_it() -> None:
    from transformers.image_utils import load_image

    image = picture(61, 47, 3)
    for form, mode in (
        ("JPEG", "RGB"),
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
    ):
        out = io.BytesIO()
        image.convert(mode).save(out, form)
        theirs = np.asarray(load_image(Image.open(io.BytesIO(out.getvalue()))))
        ours = made(DecodeImage)(out.getvalue())
        np.testing.assert_array_equal(ours.pixels, theirs)


@pytest.mark.parametrize("fit", ["stretch", "shortest", "letterbox"])
def test_a_point_is_found_again_in_the_picture_that_was_sent(fit: str) -> None:
    sent = np.zeros((120, 200, 3), dtype=np.uint8)
    sent[80:90, 120:130] = 255
    seen = made(Resize, width=96, fit=fit, filter="nearest", fill=0)(made(DecodeImage)(sent))
    seen = made(CenterCrop, width=90)(seen)
    ys, xs = np.nonzero(seen.pixels[:, :, 0])
    middle = (xs.mean() + 0.5, ys.mean() + 0.5)
    found = [(at - shift) / scale
             for at, shift, scale in zip(middle, seen.shift, seen.scale, strict=True)]  # fmt: skip
    assert found == pytest.approx([125, 85], abs=2)
