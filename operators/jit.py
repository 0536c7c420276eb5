"""Numba behind one typed decorator: compiled once, cached beside the module (or in the user's cache directory)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

Array = Any
"""A numpy array inside a kernel. Numba types it by the signature; to a type checker its elements are not plain ints."""


def jit(signature: str | None = None, uses: tuple[ModuleType, ...] = ()) -> Callable[[F], F]:
    """Compile a function to machine code.

    Args:
        signature: Numba signature such as "void(int64[::1])"; given for entry points, so that there is exactly one
            compilation, on disk after the first run. None for helpers, which are typed by their callers.
        uses: Modules whose functions or constants are compiled into this one. Numba's cache notices a change of the
            entry point's own file only; with these, a change of theirs is another entry in the cache.

    The GIL is released inside. Division follows IEEE 754 (no ZeroDivisionError) and there are no bounds checks: an
    entry point's caller vouches for its indexes. No fastmath: sums must come out the same whatever the processor.
    """

    def wrap(function: F) -> F:
        if uses:
            digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in uses))
            function.__qualname__ += f"_{digest.hexdigest()[:12]}"
        compiled = numba.njit(signature, cache=signature is not None, nogil=True, error_model="numpy")
        return cast(F, compiled(function))

    return wrap
