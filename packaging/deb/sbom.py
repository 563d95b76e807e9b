"""What is in a package, for machines: SPDX 2.3 as JSON.

Source: https://spdx.github.io/spdx-spec/v2.3/
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from licences import spdx
from suites import Target
from wheels import Wheel, metadata

NAMESPACE = "https://spdx.org/spdxdocs"


def document(
    name: str, version: str, target: Target, wheels: Sequence[Wheel], own_sha256: str, epoch: int
) -> str:
    """The document: the package, our own software in it, and every wheel with its digest.

    Args:
        own_sha256: over our own files: path and bytes of each, sorted.
    """
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    release = version.partition("+")[0]
    own = {
        "name": "edge-runtime",
        "SPDXID": "SPDXRef-edge-runtime",
        "versionInfo": release,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "Apache-2.0",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": own_sha256}],
        "comment": "the checksum is over path, NUL, length, NUL and bytes of every file, sorted",
    }
    whole = {
        "name": name,
        "SPDXID": "SPDXRef-package",
        "versionInfo": version,
        "packageFileName": f"{name}_{version}_{target.arch.name}.deb",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "INSTALL",
    }
    parts = [own, *map(_wheel, wheels)]
    content = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}_{version}_{target.arch.name}",
        "documentNamespace": f"{NAMESPACE}/{name}_{version}_{target.arch.name}-{own_sha256[:16]}",
        "creationInfo": {"created": created, "creators": ["Tool: edge-runtime-packaging-deb"]},
        "packages": [whole, *parts],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-package"),
            *(_relation("SPDXRef-package", "CONTAINS", str(part["SPDXID"])) for part in parts),
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _wheel(wheel: Wheel) -> dict[str, object]:
    said = metadata(wheel)
    licence = spdx(wheel)
    return {
        "name": wheel.name,
        "SPDXID": f"SPDXRef-wheel-{wheel.name}",
        "versionInfo": said.version,
        "packageFileName": wheel.path.name,
        "downloadLocation": "NOASSERTION",
        "homepage": said.homepage,
        "filesAnalyzed": False,
        "licenseConcluded": licence,
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": wheel.pin.sha256}],
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": f"pkg:pypi/{wheel.name}@{said.version}",
            }
        ],
    }


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
