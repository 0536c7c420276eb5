"""A real schema registry for tests; one that needs it skips, with the reason, where none can be had.

With `registry` among the words of WEIR_REQUIRE it fails instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from load_tests.registry import ApicurioRegistry, RegistryUnavailableError


def started(registry: ApicurioRegistry) -> ApicurioRegistry:
    """Start it, or skip the calling test."""
    try:
        registry.start()
    except RegistryUnavailableError as error:
        if "registry" in os.environ.get("WEIR_REQUIRE", "").replace(",", " ").split():
            pytest.fail(str(error))
        pytest.skip(str(error))
    return registry


@pytest.fixture(scope="module")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApicurioRegistry]:
    """A registry that the tests of a module share."""
    registry = started(ApicurioRegistry(tmp_path_factory.mktemp("registry")))
    try:
        yield registry
    finally:
        registry.stop()
