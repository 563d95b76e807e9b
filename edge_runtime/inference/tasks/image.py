"""Steps from a picture to a network's input: `decode_image`, `resize`, `center_crop`, `normalize`.

Pillow decodes and resizes, because the networks were trained on what Pillow made. A picture's size
is read from its header and compared with the limits before a pixel is decoded. Each step is a
frozen value made from its options; a `Picture` remembers how to get from the input's coordinates
back to those of the picture that was sent, for whoever draws boxes.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.items import Item

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG")
MODES = {"RGB": 3, "L": 1}
ORDERS = ("RGB", "BGR", "L")
FITS = ("stretch", "shortest", "letterbox")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
LAYOUTS = ("NCHW", "NHWC")
MAX_SIDE = 8192
MAX_PIXELS = 64 << 20
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels, uint8 of shape (height, width, channels), and where they came from.

    A point of the picture that was sent, of `width` × `height` pixels, is at `scale` times it plus
    `shift` in these pixels; both are (x, y).
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pixels as they are now."""
        height, width = self.pixels.shape[:2]
        return width, height

    def moved(
        self, pixels: NDArray[np.uint8], scale: tuple[float, float], shift: tuple[float, float]
    ) -> Picture:
        """These pixels, which are the old ones times `scale` plus `shift`."""
        return replace(
            self,
            pixels=pixels,
            scale=(self.scale[0] * scale[0], self.scale[1] * scale[1]),
            shift=(self.shift[0] * scale[0] + shift[0], self.shift[1] * scale[1] + shift[1]),
        )


@dataclass(frozen=True, slots=True)
class DecodeImage:
    """Options of the step: `order` of channels ("RGB", "BGR", "L"), `max_bytes`, `max_pixels`."""

    order: str
    max_bytes: int
    max_pixels: int

    @classmethod
    def parse(cls, options: Fields) -> DecodeImage:
        """From the step's options; faults go to `options`, a missing decoder too."""
        if importlib.util.find_spec("PIL") is None:
            options.fault(
                f"{options.where}: Pillow is not installed: pip install edge-runtime[images]"
            )
        return cls(
            order=options.choice("order", ORDERS, "RGB"),
            max_bytes=options.integer("max_bytes", 16 << 20, low=1, high=MAX_BYTES),
            max_pixels=options.integer("max_pixels", 32 << 20, low=1, high=MAX_PIXELS),
        )

    @property
    def channels(self) -> int:
        return 1 if self.order == "L" else 3

    def __call__(self, raw: object) -> Picture:
        """The bytes of a JPEG or PNG file, or uint8 pixels (height, width, 3) in RGB or (h, w).

        Raises:
            InputError: not such a file, damaged, empty, or larger than the limits.
        """
        if isinstance(raw, (bytes, bytearray, memoryview)):
            pixels = self._decoded(bytes(raw))
        elif isinstance(raw, np.ndarray):
            pixels = self._given(raw)
        else:
            found = "None" if raw is None else type(raw).__name__
            raise InputError(f"image: expected the bytes of a JPEG or PNG file, found {found}")
        height, width = pixels.shape[:2]
        if self.order == "BGR":
            pixels = pixels[:, :, ::-1]
        return Picture(pixels, width, height)

    def _decoded(self, data: bytes) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        if len(data) > self.max_bytes:
            raise InputError(f"image: {len(data)} bytes, at most {self.max_bytes} are accepted")
        with warnings.catch_warnings():
            # Its own limit on pixels is a warning; ours is below and comes first.
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    self._check_size(*image.size)
                    upright = ImageOps.exif_transpose(image)
                    return self._pixels(upright)
            except InputError:
                raise
            except Image.DecompressionBombError:
                raise InputError(
                    f"image: {Image.MAX_IMAGE_PIXELS} pixels or more, at most {self.max_pixels} "
                    "are decoded"
                ) from None
            except MemoryError:
                raise InputError("image: not enough memory to decode it") from None
            except Exception as reason:  # decoders raise what they like: OSError, SyntaxError, …
                told = " ".join(str(reason).split())[:120] or type(reason).__name__
                if "cannot identify" in told:
                    told = f"its {len(data)} bytes begin with {data[:8]!r}"
                raise InputError(f"image: not a JPEG or PNG file, or damaged ({told})") from None

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        converted = image.convert("L" if self.channels == 1 else "RGB")
        pixels: NDArray[np.uint8] = np.asarray(converted, dtype=np.uint8)
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def _given(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        if raw.dtype != np.uint8 or raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] != 3):
            raise InputError(
                "image: expected uint8 pixels of shape [height, width, 3], found "
                f"{raw.dtype} of {list(raw.shape)}"
            )
        height, width = raw.shape[:2]
        self._check_size(width, height)
        if raw.ndim == 3 and self.channels == 3:
            return raw
        from PIL import Image

        return self._pixels(Image.fromarray(np.ascontiguousarray(raw)))

    def _check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise InputError(f"image: {width} × {height} pixels, expected at least one")
        if width * height > self.max_pixels:
            raise InputError(
                f"image: {width} × {height} are {width * height} pixels, at most "
                f"{self.max_pixels} are decoded"
            )


@dataclass(frozen=True, slots=True)
class Resize:
    """Options of the step: `width`, `height`, `fit`, `filter`, `fill`.

    `fit` is "stretch" (to exactly that size), "shortest" (the shorter side becomes `width`, the
    longer keeps the ratio; a crop follows) or "letterbox" (all of it inside, in the middle, the
    rest filled with `fill`).
    """

    width: int
    height: int
    fit: str
    filter: str
    fill: int

    @classmethod
    def parse(cls, options: Fields) -> Resize:
        """From the step's options; faults go to `options`."""
        width = options.integer("width", low=1, high=MAX_SIDE)
        made = cls(
            width=width,
            height=options.integer("height", width, low=1, high=MAX_SIDE),
            fit=options.choice("fit", FITS, "stretch"),
            filter=options.choice("filter", FILTERS, "bilinear"),
            fill=options.integer("fill", 114, high=255),
        )
        if made.fit == "shortest" and made.width != made.height:
            options.fault(f"{options.where}: fit shortest has one size, height must be width")
        return made

    def __call__(self, picture: Picture) -> Picture:
        """The picture in its new size.

        Raises:
            InputError: a side would become too long: the picture is a line.
        """
        width, height = picture.size
        if self.fit == "stretch":
            return self._resized(picture, self.width, self.height)
        if self.fit == "shortest":
            # As the reference rounds: the longer side is cut to a whole number.
            longer = int(self.width * max(width, height) / min(width, height))
            if longer > MAX_SIDE:
                raise InputError(
                    f"image: {width} × {height} pixels become {longer} long, at most {MAX_SIDE}"
                )
            new = (self.width, longer) if width <= height else (longer, self.width)
            return self._resized(picture, *new)
        ratio = min(self.width / width, self.height / height)
        inner = [max(1, min(most, round(side * ratio)))
                 for side, most in ((width, self.width), (height, self.height))]  # fmt: skip
        small = self._resized(picture, *inner)
        left, top = (self.width - inner[0]) // 2, (self.height - inner[1]) // 2
        framed = np.full(
            (self.height, self.width, small.pixels.shape[2]), self.fill, dtype=np.uint8
        )
        framed[top : top + inner[1], left : left + inner[0]] = small.pixels
        return small.moved(framed, (1.0, 1.0), (float(left), float(top)))

    def _resized(self, picture: Picture, width: int, height: int) -> Picture:
        before = picture.size
        if before == (width, height):
            return picture
        from PIL import Image

        method = Image.Resampling[self.filter.upper()]
        channels = picture.pixels.shape[2]
        source = picture.pixels if channels > 1 else picture.pixels[:, :, 0]
        resized = Image.fromarray(np.ascontiguousarray(source)).resize((width, height), method)
        pixels: NDArray[np.uint8] = np.asarray(resized).reshape(height, width, channels)
        return picture.moved(pixels, (width / before[0], height / before[1]), (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class CenterCrop:
    """Options of the step: `width`, `height`. What is smaller gets black around it."""

    width: int
    height: int

    @classmethod
    def parse(cls, options: Fields) -> CenterCrop:
        """From the step's options; faults go to `options`."""
        width = options.integer("width", low=1, high=MAX_SIDE)
        return cls(width, options.integer("height", width, low=1, high=MAX_SIDE))

    def __call__(self, picture: Picture) -> Picture:
        """The middle of the picture, exactly that large."""
        width, height = picture.size
        left, top = (_missing(have, want) for have, want in
                     ((width, self.width), (height, self.height)))  # fmt: skip
        wide, high = max(self.width, width), max(self.height, height)
        framed = np.pad(
            picture.pixels, ((top, high - height - top), (left, wide - width - left), (0, 0))
        )
        x, y = max(0, (width - self.width) // 2), max(0, (height - self.height) // 2)
        cut = framed[y : y + self.height, x : x + self.width]
        return picture.moved(cut, (1.0, 1.0), (float(left - x), float(top - y)))


def _missing(have: int, want: int) -> int:
    """Black before the first pixel: half of what lacks, rounded up as the reference does."""
    return -(-max(0, want - have) // 2)


@dataclass(frozen=True, slots=True)
class Normalize:
    """Options of the step: `scale`, `mean`, `std`, `layout`, `input`.

    A value is (pixel × scale − mean) / std, mean and std for each channel in the picture's order.
    `layout` is that of the model's `input`.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    input: str

    @classmethod
    def parse(cls, options: Fields) -> Normalize:
        """From the step's options; faults go to `options`."""
        made = cls(
            scale=options.number("scale", 1 / 255, low=1e-9, high=1e6),
            mean=options.numbers("mean", (0.0,), max_items=4),
            std=options.numbers("std", (1.0,), max_items=4),
            layout=options.choice("layout", LAYOUTS, "NCHW"),
            input=options.text("input", "pixel_values"),
        )
        if not made.std or min(made.std) <= 0:
            options.fault(f"{options.where}: std must hold numbers above 0")
        if len(made.mean) != len(made.std):
            options.fault(
                f"{options.where}: mean holds {len(made.mean)} numbers, std {len(made.std)}"
            )
        return made

    def __call__(self, picture: Picture) -> Item:
        """Float32, (channels, height, width) or (height, width, channels)."""
        channels = picture.pixels.shape[2]
        if len(self.mean) not in (1, channels):
            raise InputError(
                f"step normalize: mean and std hold {len(self.mean)} numbers, the picture has "
                f"{channels} channel{'s' if channels > 1 else ''}"
            )
        mean, std = (np.asarray(one, dtype=np.float32) for one in (self.mean, self.std))
        values = picture.pixels.astype(np.float32)
        values *= np.float32(self.scale)
        values -= mean
        values /= std
        if self.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return Item({self.input: np.ascontiguousarray(values)}, picture=picture)
