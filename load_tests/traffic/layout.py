"""What the generator's parts hand to each other: payments and other events as rows of numpy structured arrays.

Entities are integers until they are written (`names.py`): a customer is an account, customer c owns the cards
2c and 2c + 1 and the devices 4c to 4c + 3. What fraudsters bring along (accounts, devices, payees) is numbered above
those, by `Fresh`. Missing is -1 for integers, NaN for coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

CHANNELS: Final = ("card_present", "ecommerce", "atm", "transfer", "wallet")
CARD_PRESENT, ECOMMERCE, ATM, TRANSFER, WALLET = range(5)
PAYMENT_TYPES: Final = ("purchase", "refund", "reversal", "verification")
PURCHASE, REFUND, REVERSAL, VERIFICATION = range(4)
ENTRY_MODES: Final = ("chip", "contactless", "magstripe", "manual")
CHIP, CONTACTLESS, MAGSTRIPE, MANUAL = range(4)
THREE_DS: Final = ("authenticated", "frictionless", "attempted", "failed")
AUTHENTICATED, FRICTIONLESS, ATTEMPTED, FAILED = range(4)
DEVICE_KINDS: Final = (
    "seen", "login", "login_failed", "fingerprint_changed", "emulator_detected", "rooted", "blocked", "unblocked",
)  # fmt: skip
SEEN, LOGIN, LOGIN_FAILED, FINGERPRINT_CHANGED, EMULATOR_DETECTED, ROOTED, BLOCKED, UNBLOCKED = range(8)
IDENTITY_KINDS: Final = (
    "opened", "kyc_passed", "kyc_failed", "sanctions_hit", "pep_hit", "hit_cleared", "credentials_changed",
    "mfa_passed", "mfa_failed", "address_changed", "closed",
)  # fmt: skip
(
    OPENED, KYC_PASSED, KYC_FAILED, SANCTIONS_HIT, PEP_HIT, HIT_CLEARED, CREDENTIALS_CHANGED,
    MFA_PASSED, MFA_FAILED, ADDRESS_CHANGED, CLOSED,
) = range(11)  # fmt: skip
LABELS: Final = ("genuine", "fraud")
SOURCES: Final = ("chargeback", "scheme_report", "customer", "analyst")
CHARGEBACK, SCHEME_REPORT, CUSTOMER, ANALYST = range(4)
PATTERNS: Final = (
    "genuine", "card_testing", "account_takeover", "impossible_travel", "merchant_compromise", "bust_out",
    "payee_scam", "device_farm",
)  # fmt: skip
(
    GENUINE, CARD_TESTING, ACCOUNT_TAKEOVER, IMPOSSIBLE_TRAVEL, MERCHANT_COMPROMISE, BUST_OUT, PAYEE_SCAM, DEVICE_FARM,
) = range(8)  # fmt: skip

Rows = NDArray[np.void]
Rng = np.random.Generator

PAYMENT: Final = np.dtype(
    [
        ("time_us", np.int64),  # event time
        ("account", np.int32),
        ("card", np.int32),
        ("device", np.int32),
        ("ip", np.int64),  # IPv4 address as a number
        ("merchant", np.int32),
        ("terminal", np.int32),
        ("payee", np.int32),
        ("mcc", np.int16),  # 0: none
        ("channel", np.int8),
        ("payment_type", np.int8),
        ("amount_minor", np.int64),
        ("euro", np.float64),  # the amount in euros, at the generator's rough rates
        ("currency", np.int16),  # index into Cities.currencies
        ("country", np.int16),  # index into Cities.countries
        ("latitude", np.float64),
        ("longitude", np.float64),
        ("accuracy_km", np.float64),
        ("entry", np.int8),
        ("three_ds", np.int8),
        ("recurring", np.bool_),
        ("pattern", np.int8),
        ("episode", np.int32),
        ("keep", np.bool_),  # must not be trimmed away: a fraud, or what makes a fraud a fraud
    ]
)
DEVICE_EVENT: Final = np.dtype(
    [
        ("time_us", np.int64),
        ("device", np.int32),
        ("account", np.int32),
        ("kind", np.int8),
        ("ip", np.int64),
        ("country", np.int16),
        ("latitude", np.float64),
        ("longitude", np.float64),
    ]
)
IDENTITY_EVENT: Final = np.dtype([("time_us", np.int64), ("account", np.int32), ("kind", np.int8)])
OUTCOME: Final = np.dtype(
    [("time_us", np.int64), ("payment", np.int32), ("label", np.int8), ("source", np.int8), ("pattern", np.int8)]
)

_DEFAULTS: Final[dict[str, float]] = {"latitude": np.nan, "longitude": np.nan, "accuracy_km": np.nan}
_ZERO: Final = frozenset(
    {
        "time_us",
        "mcc",
        "payment_type",
        "amount_minor",
        "euro",
        "recurring",
        "pattern",
        "keep",
        "channel",
        "kind",
        "label",
    }
)


def blank(dtype: np.dtype[np.void], count: int) -> Rows:
    """`count` rows with every optional field missing."""
    rows = np.zeros(count, dtype=dtype)
    for name in dtype.names or ():
        if name in _DEFAULTS:
            rows[name] = _DEFAULTS[name]
        elif name not in _ZERO:
            rows[name] = -1
    return rows


def stack(dtype: np.dtype[np.void], parts: Iterable[Rows]) -> Rows:
    """All rows of `parts`, in their order; an empty array when there are none."""
    kept = [part for part in parts if len(part)]
    return np.concatenate(kept) if kept else np.zeros(0, dtype=dtype)


def by_time(rows: Rows) -> Rows:
    """Rows by event time; ties stay in order, so that the result does not depend on the sort."""
    return rows[np.argsort(rows["time_us"], kind="stable")]


def pick_row(rng: Rng, cumulative: NDArray[np.float64]) -> NDArray[np.int64]:
    """One draw a row: the index drawn with the probabilities whose running sums are the row (last column about 1)."""
    u = rng.random(len(cumulative))[:, None]
    return np.asarray(np.minimum((u > cumulative).sum(axis=1), cumulative.shape[1] - 1))


@dataclass(frozen=True, slots=True)
class Params:
    """What to generate.

    Attributes:
        payments: Payments in all, frauds included; duplicates and malformed lines come on top.
        days: Simulated days.
        seed: Same seed and parameters, same bytes.
        customers: Account holders; None: one for every 50 payments, at least 60.
        start: First day, UTC, as YYYY-MM-DD.
        file_format: jsonl, avro or parquet.
        fraud_share: Frauds among the payments, about.
        pans: Write a quarter of the cards as raw test card numbers (`pan`) instead of `card_id`.
        movement: Genuine payments of people who travel a lot, nothing else.
        drift: What changes on `drift_day`, one of `drift.KINDS`; None: nothing.
        drift_day: Day from which on it does, the first day being 0.
    """

    payments: int = 200_000
    days: int = 60
    seed: int = 7
    customers: int | None = None
    start: str = "2026-06-01"
    file_format: str = "jsonl"
    fraud_share: float = 0.008
    pans: bool = False
    movement: bool = False
    drift: str | None = None
    drift_day: int = 40

    @property
    def customer_count(self) -> int:
        """Account holders."""
        return self.customers if self.customers is not None else max(60, self.payments // 50)

    @property
    def start_us(self) -> int:
        """First instant, µs since the epoch."""
        return int(datetime.strptime(self.start, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * SECOND_US

    @property
    def end_us(self) -> int:
        """First instant that is no longer simulated."""
        return self.start_us + self.days * DAY_US

    def rng(self, stage: str) -> Rng:
        """A generator of its own for each stage: a change in one stage leaves the draws of the others as they were."""
        return np.random.default_rng([self.seed, *stage.encode()])


class Fresh:
    """Hands out numbers of entities that no customer owns."""

    def __init__(self, customers: int) -> None:
        self._account = customers
        self._device = 4 * (customers + 1_000_000)
        self._payee = PAYEE_POOL
        self._episode = 0

    def account(self) -> int:
        """A new account; its cards are numbered like a customer's."""
        self._account += 1
        return self._account - 1

    def device(self) -> int:
        """A new device."""
        self._device += 1
        return self._device - 1

    def payee(self) -> int:
        """A new payee."""
        self._payee += 1
        return self._payee - 1

    def episode(self) -> int:
        """A new fraud episode."""
        self._episode += 1
        return self._episode - 1


PAYEE_POOL: Final = 50_000_000  # payees below are genuine

Row = dict[str, Any]


def rows_of(dtype: np.dtype[np.void], items: list[Row]) -> Rows:
    """Rows from dicts of what is not missing."""
    rows = blank(dtype, len(items))
    for name in dtype.names or ():
        at = [i for i, item in enumerate(items) if name in item]
        if at:
            rows[name][at] = [items[i][name] for i in at]
    return rows
