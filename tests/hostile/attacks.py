"""Every attack of this folder, in one table."""

from __future__ import annotations

from tests.hostile.attack import Attack
from tests.hostile.bundles import ALL, BundleAttack
from tests.hostile.manifests import JSON_ATTACKS, MANIFEST_ATTACKS
from tests.hostile.messages import MESSAGE_ATTACKS
from tests.hostile.metadata import METADATA_ATTACKS
from tests.hostile.models import MODEL_ATTACKS
from tests.hostile.requests import REQUEST_ATTACKS
from tests.hostile.senses import SENSE_ATTACKS
from tests.hostile.settings import SETTINGS_ATTACKS
from tests.hostile.state import STATE_ATTACKS

ATTACKS: tuple[Attack, ...] = (
    *MANIFEST_ATTACKS,
    *JSON_ATTACKS,
    *MESSAGE_ATTACKS,
    *SETTINGS_ATTACKS,
    *STATE_ATTACKS,
    *MODEL_ATTACKS,
    *REQUEST_ATTACKS,
    *SENSE_ATTACKS,
    *METADATA_ATTACKS,
)
BUNDLE_ATTACKS: tuple[BundleAttack, ...] = ALL
