"""Run before `weir` by the live kill campaign: what stands in the topics behind the last commit is not read back."""

from collections.abc import Iterator
from typing import Any

from flows.kafka_client import Offsets
from flows.kafka_publish import Publisher


def _read_back(_publisher: Publisher, _begin: Offsets) -> Iterator[Any]:
    return iter(())


Publisher.read_back = _read_back  # type: ignore[method-assign,assignment]  # sabotage
