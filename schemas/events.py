"""Typed events, one frozen struct a contract.

Field names are those of the contract, but for times: `event_time` on the wire is `event_time_us` here, whole
microseconds since 1970-01-01T00:00:00Z. Optional fields are None when absent. Values have been validated: codes
are upper case, ids are not empty, `pan` never gets this far.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""An identifier; the bound is checked where an event is decoded, not where one is constructed."""

Minor = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
"""An amount in minor units of its currency; checked like Id. 10^15 stays exact in every float on the way."""


class Transaction(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A payment to decide: contract `transaction`."""

    transaction_id: Id
    event_time_us: int
    account_id: Id
    channel: str  # card_present, ecommerce, atm, transfer, wallet
    amount_minor: Minor  # >= 0, minor units of `currency`
    currency: str  # ISO 4217
    payment_type: str = "purchase"  # purchase, refund, reversal, verification
    card_id: Id | None = None
    bin: str | None = None
    last4: str | None = None
    device_id: Id | None = None
    ip: str | None = None
    merchant_id: Id | None = None
    terminal_id: Id | None = None
    counterparty_id: Id | None = None
    mcc: str | None = None
    country: str | None = None  # ISO 3166-1 alpha-2
    latitude: float | None = None
    longitude: float | None = None
    location_accuracy_km: float | None = None
    entry_mode: str | None = None
    three_ds_result: str | None = None
    recurring: bool | None = None
    attributes: dict[str, str] | None = None


class DeviceEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something seen of a device: contract `device_event`."""

    event_id: Id
    event_time_us: int
    device_id: Id
    kind: str  # seen, login, login_failed, fingerprint_changed, emulator_detected, rooted, blocked, unblocked
    account_id: Id | None = None
    ip: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None


class IdentityEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something learned of an account's holder: contract `identity_event`."""

    event_id: Id
    event_time_us: int
    account_id: Id
    kind: str  # opened, kyc_passed, kyc_failed, sanctions_hit, pep_hit, hit_cleared, credentials_changed, mfa_passed,
    #            mfa_failed, address_changed, closed


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a payment turned out to be: contract `outcome`."""

    outcome_id: Id
    event_time_us: int
    transaction_id: Id
    label: str  # fraud, genuine
    source: str  # chargeback, scheme_report, customer, analyst
    fraud_type: str | None = None


class Label(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An outcome, or maturity, joined to the payment it is about; feeds fraud rates and learners.

    A correction carries the label it replaces in `previous_label` and the time of that label in
    `previous_event_time_us`, so that a window can take the earlier one out.
    """

    transaction_id: Id
    event_time_us: int  # of the label
    payment_event_time_us: int
    payment_seen_at_us: int  # the flow's clock when the payment was read: names what was kept of it
    fraud: bool
    weight: float  # 1, or 1 / sampling share for a down-sampled genuine
    source: str  # chargeback, scheme_report, customer, analyst, maturity
    outcome_id: Id | None = None
    fraud_type: str | None = None
    previous_fraud: bool | None = None
    previous_event_time_us: int | None = None
    previous_weight: float | None = None


class Tick(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The event-time boundary at which labels and releases take effect."""

    event_time_us: int
