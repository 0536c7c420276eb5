"""What a state folder says of itself before any shard is opened: its format, its feature sets in order, its keys.

    manifest.json   format, shards, hashes of policy and learning, ... (must be equal at every start),
                    feature_sets    [{id, hash}, ...] in the order in which they ran; the last one runs
                    entities        name -> key fields; base_currency
                    encryption      null, or {key: id of the active state key, check: its check value}

A changed features.toml needs an id that the folder has not seen: an id is bound to its content, and windows go by what
ran just before. What a change may alter is windows, aggregates, filters, streams, lateness; the entities and their keys
stay, since payments wait for their labels with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from operators.features import FeatureSet
from schemas.errors import ConfigError, SecretError, StateLayoutError
from state.keys import StateKeys

FORMAT: Final = 1

Manifest = dict[str, Any]


def own_entries(features: FeatureSet, keys: StateKeys | None) -> Manifest:
    """The entries of a new folder that may change with care, unlike the others."""
    return {
        "feature_sets": [{"id": features.id, "hash": features.hash}],
        "entities": {spec.name: list(spec.key) for spec in features.entities},
        "base_currency": features.base_currency,
        "encryption": _encryption(keys),
    }


def check_format(found: Mapping[str, Any], state: Path) -> None:
    """Refuse a folder of another release.

    Raises:
        StateLayoutError: Its format is not the one this program reads.
    """
    number = found.get("format")
    if number != FORMAT:
        msg = (
            f"--state {state}: manifest.json has format {number!r}, this program reads {FORMAT}; start the release "
            "that wrote it (CHANGELOG.md), or give a new --state folder"
        )
        raise StateLayoutError(msg)


def carried_on(
    found: Mapping[str, Any], features: FeatureSet, keys: StateKeys | None, state: Path, file: str
) -> Manifest:
    """The folder's own entries for this start, equal to `found`'s when nothing has changed.

    Args:
        found: The manifest.
        features: The feature set declared now.
        keys: The state keys given now.
        state: The folder, for messages.
        file: The features.toml, for messages.

    Raises:
        ConfigError: The id stands for other content, or was left before, or entities or base currency differ.
        SecretError: The folder is encrypted and the key is missing or wrong, or it is not and there are keys.
    """
    known = list(found["feature_sets"])
    last = known[-1]
    if features.id == last["id"] and features.hash != last["hash"]:
        msg = (
            f"{file}: id = {features.id!r} is bound to the content of hash {last['hash'][:12]} in --state {state}, the "
            f"file's is {features.hash[:12]}; give the changed content a new id"
        )
        raise ConfigError(msg)
    if features.id != last["id"]:
        earlier = next((one for one in known if one["id"] == features.id), None)
        if earlier is not None:
            msg = (
                f"{file}: id = {features.id!r} ran on --state {state} before {last['id']!r} (hash "
                f"{earlier['hash'][:12]}, the file's is {features.hash[:12]}), and what passed since was not counted "
                "under it; give the content a new id"
            )
            raise ConfigError(msg)
        own = own_entries(features, None)
        for entry in ("entities", "base_currency"):
            if list_of(own[entry]) != list_of(found[entry]):
                msg = (
                    f"{file}: a changed feature set keeps the {entry.replace('_', ' ')} of the state; expected "
                    f"{found[entry]!r}, found {own[entry]!r}; keep them, or give a new --state folder"
                )
                raise ConfigError(msg)
        known.append({"id": features.id, "hash": features.hash})
    return {
        "feature_sets": known,
        "entities": found["entities"],
        "base_currency": found["base_currency"],
        "encryption": _keys_for(found["encryption"], keys, state),
    }


def list_of(entry: Any) -> Any:
    """An entry with its order, which counts: keys of a payment are kept by their entity's place."""
    return list(entry.items()) if isinstance(entry, dict) else entry


def predecessor(manifest: Mapping[str, Any]) -> str | None:
    """Id of the feature set that ran before the present one, None for the first."""
    known = manifest["feature_sets"]
    return str(known[-2]["id"]) if len(known) > 1 else None


def _encryption(keys: StateKeys | None) -> dict[str, str] | None:
    return None if keys is None else {"key": keys.active, "check": keys.check_value(keys.active)}


def _keys_for(found: Mapping[str, str] | None, keys: StateKeys | None, state: Path) -> dict[str, str] | None:
    if found is None and keys is None:
        return None
    if found is None:
        msg = (
            f"--state {state}: it was written without encryption, and state keys are given; unset WEIR_STATE_KEYS_FILE "
            "and WEIR_STATE_KEYS, or give a new --state folder"
        )
        raise SecretError(msg)
    if keys is None:
        msg = (
            f"--state {state}: it is encrypted under key {found['key']!r}, and no state keys are given; set "
            "WEIR_STATE_KEYS_FILE or WEIR_STATE_KEYS"
        )
        raise SecretError(msg)
    if found["key"] not in keys.key_ids:  # after `weir state rekey` too: the manifest follows at the next start
        msg = (
            f"--state {state}: it was last written under key {found['key']!r}, and the state keys given are "
            f"{', '.join(map(repr, keys.key_ids))}; add the missing key to the key file"
        )
        raise SecretError(msg)
    if keys.check_value(found["key"]) != found["check"]:
        msg = (
            f"--state {state}: key {found['key']!r} of the state keys is not the one it was written under (another "
            "secret under the same id); give the key file that was used before"
        )
        raise SecretError(msg)
    return _encryption(keys)
