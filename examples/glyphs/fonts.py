"""The fonts, by design: which Debian package has them, and in which split they stand.

A design is what a person takes for one typeface: its weights, and whatever was drawn after it
(Hack after DejaVu, Carlito after Lato). A design stands in one split, so that a test glyph is
never the bold of a training glyph. Exact files are named, so that the data do not depend on what
else is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError

FOLDER = Path("/usr/share/fonts")


@dataclass(frozen=True, slots=True)
class Design:
    """`files` are relative to the folder of fonts; all of them are in Debian's `package`."""

    name: str
    package: str
    files: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(FOLDER / name for name in self.files)


def _design(name: str, package: str, folder: str, *files: str) -> Design:
    return Design(name, f"fonts-{package}", tuple(f"{folder}/{file}" for file in files))


TRUE, OPEN = "truetype", "opentype"

TRAIN: tuple[Design, ...] = (
    _design("vera-sans", "dejavu-core", f"{TRUE}/dejavu", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    _design(
        "vera-serif", "dejavu-core", f"{TRUE}/dejavu", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"
    ),
    _design("vera-mono", "dejavu-core", f"{TRUE}/dejavu", "DejaVuSansMono.ttf"),
    _design("hack", "hack", f"{TRUE}/hack", "Hack-Regular.ttf", "Hack-Bold.ttf"),
    _design(
        "liberation-sans",
        "liberation",
        f"{TRUE}/liberation",
        "LiberationSans-Regular.ttf",
        "LiberationSans-Bold.ttf",
        "LiberationSansNarrow-Regular.ttf",
        "LiberationSansNarrow-Bold.ttf",
    ),
    _design(
        "liberation-serif",
        "liberation",
        f"{TRUE}/liberation",
        "LiberationSerif-Regular.ttf",
        "LiberationSerif-Bold.ttf",
    ),
    _design(
        "liberation-mono",
        "liberation",
        f"{TRUE}/liberation",
        "LiberationMono-Regular.ttf",
        "LiberationMono-Bold.ttf",
    ),
    _design("helvetica", "freefont-ttf", f"{TRUE}/freefont", "FreeSans.ttf", "FreeSansBold.ttf"),
    _design("times", "freefont-ttf", f"{TRUE}/freefont", "FreeSerif.ttf", "FreeSerifBold.ttf"),
    _design("courier", "freefont-ttf", f"{TRUE}/freefont", "FreeMono.ttf", "FreeMonoBold.ttf"),
    _design("lato", "lato", f"{TRUE}/lato", "Lato-Light.ttf", "Lato-Regular.ttf", "Lato-Bold.ttf"),
    _design(
        "open-sans",
        "open-sans",
        f"{TRUE}/open-sans",
        "OpenSans-Light.ttf",
        "OpenSans-Regular.ttf",
        "OpenSans-Bold.ttf",
    ),
    _design(
        "roboto",
        "roboto-unhinted",
        f"{TRUE}/roboto/unhinted",
        "RobotoTTF/Roboto-Light.ttf",
        "RobotoTTF/Roboto-Regular.ttf",
        "RobotoTTF/Roboto-Bold.ttf",
        "RobotoCondensed-Regular.ttf",
    ),
    _design(
        "roboto-slab",
        "roboto-slab",
        f"{OPEN}/roboto/slab",
        "RobotoSlab-Regular.otf",
        "RobotoSlab-Bold.otf",
    ),
    _design(
        "comic-neue",
        "comic-neue",
        f"{OPEN}/comic-neue",
        "ComicNeue-Regular.otf",
        "ComicNeue-Bold.otf",
    ),
    _design("inconsolata", "inconsolata", f"{TRUE}/inconsolata", "Inconsolata.otf"),
    _design("cabin", "cabin", f"{OPEN}/cabin", "Cabin-Regular.otf", "Cabin-Bold.otf"),
    _design(
        "garamond",
        "ebgaramond",
        f"{OPEN}/ebgaramond",
        "EBGaramond12-Regular.otf",
        "EBGaramond12-Bold.otf",
    ),
    _design(
        "fira-code", "firacode", f"{TRUE}/firacode", "FiraCode-Regular.ttf", "FiraCode-Bold.ttf"
    ),
    _design("junction", "junction", f"{OPEN}/junction", "Junction.otf"),
    _design(
        "libertine",
        "linuxlibertine",
        f"{OPEN}/linux-libertine",
        "LinLibertine_R.otf",
        "LinLibertine_RB.otf",
        "LinBiolinum_R.otf",
        "LinBiolinum_RB.otf",
    ),
    _design("manrope", "manrope", f"{TRUE}/manrope", "Manrope-Regular.ttf", "Manrope-Bold.ttf"),
    _design(
        "mononoki", "mononoki", f"{TRUE}/mononoki", "mononoki-Regular.ttf", "mononoki-Bold.ttf"
    ),
    _design(
        "old-standard",
        "oldstandard",
        f"{TRUE}/fonts-oldstandard",
        "OldStandard-Regular.ttf",
        "OldStandard-Bold.ttf",
    ),
    _design("play", "play", f"{TRUE}/play", "Play-Regular.ttf", "Play-Bold.ttf"),
    _design("prociono", "prociono", f"{OPEN}/fonts-prociono", "Prociono.otf"),
    _design("quattrocento", "quattrocento", f"{OPEN}/quattrocento", "Quattrocento-Regular.otf"),
    _design(
        "gentium",
        "sil-gentium-basic",
        f"{TRUE}/gentium-basic",
        "GenBasR.ttf",
        "GenBasB.ttf",
    ),
    _design(
        "charis", "sil-charis", f"{TRUE}/charis", "CharisSIL-Regular.ttf", "CharisSIL-Bold.ttf"
    ),
    _design(
        "kaffeesatz",
        "yanone-kaffeesatz",
        f"{OPEN}/yanone-kaffeesatz",
        "YanoneKaffeesatz-Regular.otf",
        "YanoneKaffeesatz-Bold.otf",
    ),
    _design(
        "comfortaa",
        "comfortaa",
        f"{TRUE}/comfortaa",
        "Comfortaa-Regular.ttf",
        "Comfortaa-Bold.ttf",
    ),
    _design(
        "courier-prime",
        "courier-prime",
        f"{OPEN}/courier-prime",
        "Courier Prime.otf",
        "Courier Prime Bold.otf",
        "Courier Prime Sans.otf",
    ),
    _design(
        "spartan",
        "league-spartan",
        f"{OPEN}/league-spartan",
        "LeagueSpartan-Regular.otf",
        "LeagueSpartan-Bold.otf",
    ),
    _design("din", "opendin", f"{TRUE}/opendin", "OSP-DIN.ttf"),
    _design("noto-mono", "noto-mono", f"{TRUE}/noto", "NotoMono-Regular.ttf"),
    _design("arapey", "arapey", f"{OPEN}/arapey", "Arapey-Regular.otf"),
    _design("cardo", "cardo", f"{TRUE}/cardo", "Cardo104s.ttf", "Cardob101.ttf"),
    _design("goudy", "goudybookletter", f"{OPEN}/sortsmill", "GoudyBookletter1911.otf"),
    _design("monofur", "monofur", f"{TRUE}/monofur", "monof55.ttf"),
    _design(
        "gillius", "adf-gillius", f"{TRUE}/adf", "GilliusADF-Regular.otf", "GilliusADF-Bold.otf"
    ),
    _design(
        "univers",
        "adf-universalis",
        f"{TRUE}/adf",
        "UniversalisADFStd-Regular.otf",
        "UniversalisADFStd-Bold.otf",
    ),
    _design("bebas", "bebas-neue", f"{OPEN}/bebas-neue", "BebasNeue-Regular.otf"),
    _design(
        "computer-modern",
        "cmu",
        f"{TRUE}/cmu",
        "cmunrm.ttf",
        "cmunbx.ttf",
        "cmunss.ttf",
        "cmuntt.ttf",
    ),
    _design(
        "stix",
        "stix",
        f"{OPEN}/stix-word",
        "STIX-Regular.otf",
        "STIX-Bold.otf",
    ),
    _design("osifont", "osifont", f"{TRUE}/osifont", "osifont.ttf"),
    _design("ocr-a", "ocr-a", f"{TRUE}/ocr-a", "OCRA.ttf"),
    _design("sora", "sora", f"{OPEN}/sora", "Sora-Regular.otf", "Sora-Bold.otf"),
)
"""Calibration takes its glyphs from these too: other renderings, the same fonts."""

TEST: tuple[Design, ...] = (
    _design(
        "cantarell",
        "cantarell",
        f"{OPEN}/cantarell",
        "Cantarell-Light.otf",
        "Cantarell-Regular.otf",
        "Cantarell-Bold.otf",
    ),
    _design(
        "vollkorn", "vollkorn", f"{TRUE}/vollkorn", "Vollkorn-Regular.ttf", "Vollkorn-Bold.ttf"
    ),
    _design(
        "pt",
        "paratype",
        f"{TRUE}/paratype",
        "PTS55F.ttf",
        "PTS75F.ttf",
        "PTF55F.ttf",
        "PTF75F.ttf",
        "PTM55F.ttf",
    ),
    _design(
        "jetbrains-mono",
        "jetbrains-mono",
        f"{TRUE}/jetbrains-mono",
        "JetBrainsMono-Regular.ttf",
        "JetBrainsMono-Bold.ttf",
    ),
    _design(
        "clear-sans",
        "clear-sans",
        f"{TRUE}/clear-sans",
        "ClearSans-Light.ttf",
        "ClearSans-Regular.ttf",
        "ClearSans-Bold.ttf",
    ),
    _design(
        "caladea",
        "crosextra-caladea",
        f"{TRUE}/crosextra",
        "Caladea-Regular.ttf",
        "Caladea-Bold.ttf",
    ),
    _design("karla", "karla", f"{TRUE}/karla", "Karla-Regular.otf", "Karla-Bold.otf"),
    _design(
        "quicksand",
        "quicksand",
        f"{TRUE}/quicksand",
        "Quicksand-Regular.ttf",
        "Quicksand-Bold.ttf",
    ),
    _design(
        "b612", "b612", f"{OPEN}/b612", "B612-Regular.otf", "B612-Bold.otf", "B612Mono-Regular.otf"
    ),
    _design("go", "go", "fonts-go", "Go-Regular.ttf", "Go-Bold.ttf", "Go-Mono.ttf"),
    _design("oxygen", "oxygen", f"{TRUE}/oxygen", "Oxygen-Sans.ttf", "Oxygen-Sans-Bold.ttf"),
    _design("andika", "sil-andika", f"{TRUE}/andika", "Andika-Regular.ttf", "Andika-Bold.ttf"),
    _design("dosis", "dosis", f"{OPEN}/dosis", "Dosis-Medium.otf", "Dosis-Bold.otf"),
    _design("fanwood", "fanwood", f"{TRUE}/fanwood", "Fanwood.otf"),
    _design("inter", "inter", f"{OPEN}/inter", "Inter-Regular.otf", "Inter-Bold.otf"),
)


def check_installed(designs: Sequence[Design] = (*TRAIN, *TEST)) -> None:
    """Refuse to go on without a font.

    Raises:
        InputError: names the packages to install.
    """
    missing = sorted({one.package for one in designs if not all(p.exists() for p in one.paths)})
    if missing:
        raise InputError(
            f"fonts: {len(missing)} packages are not installed; "
            f"apt-get install --no-install-recommends {' '.join(missing)}"
        )
