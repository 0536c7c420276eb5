"""Why a model release is not served: stable codes, never reused; the label of weir_model_releases_refused_total."""

from __future__ import annotations

from typing import Final

BAD_RECORD: Final = "BAD_RECORD"
NOT_SIGNED: Final = "NOT_SIGNED"
BAD_SIGNATURE: Final = "BAD_SIGNATURE"
NO_ARTEFACT: Final = "NO_ARTEFACT"
WRONG_HASH: Final = "WRONG_HASH"
ARTEFACT_TOO_LARGE: Final = "ARTEFACT_TOO_LARGE"
OTHER_FEATURE_SET: Final = "OTHER_FEATURE_SET"
UNKNOWN_MODEL: Final = "UNKNOWN_MODEL"
BAD_ARTEFACT: Final = "BAD_ARTEFACT"
STORE_UNREACHABLE: Final = "STORE_UNREACHABLE"
