"""Stable codes: why a record became a dead letter, and why a payment was not simply approved.

A code is never reused for another meaning and never renamed: downstream services, case systems and reports count by
them. A new one is added; one no longer raised stays here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

NOT_JSON: Final = "NOT_JSON"
NOT_AVRO: Final = "NOT_AVRO"
TOO_LARGE: Final = "TOO_LARGE"
MISSING_FIELD: Final = "MISSING_FIELD"
WRONG_TYPE: Final = "WRONG_TYPE"
UNKNOWN_VALUE: Final = "UNKNOWN_VALUE"
BAD_ID: Final = "BAD_ID"
BAD_TEXT: Final = "BAD_TEXT"
BAD_CODE: Final = "BAD_CODE"
BAD_CURRENCY: Final = "BAD_CURRENCY"
BAD_COUNTRY: Final = "BAD_COUNTRY"
BAD_IP: Final = "BAD_IP"
OUT_OF_RANGE: Final = "OUT_OF_RANGE"
BAD_TIME: Final = "BAD_TIME"
FUTURE_EVENT: Final = "FUTURE_EVENT"
BAD_PAN: Final = "BAD_PAN"
PAN_WITHOUT_KEY: Final = "PAN_WITHOUT_KEY"
PAN_CONFLICT: Final = "PAN_CONFLICT"
PAN_IN_IDENTIFIER: Final = "PAN_IN_IDENTIFIER"
CONFLICTING_DUPLICATE: Final = "CONFLICTING_DUPLICATE"
UNMATCHED_OUTCOME: Final = "UNMATCHED_OUTCOME"
UNKNOWN_CONTRACT: Final = "UNKNOWN_CONTRACT"

DEAD_LETTER_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        NOT_JSON: "The payload is no JSON document: syntax, encoding, depth, or a number that JSON does not have.",
        NOT_AVRO: "The payload is not one Avro record of the contract: cut off, too long, or text that is not UTF-8.",
        TOO_LARGE: "The payload exceeds the size limit.",
        MISSING_FIELD: "A required field is absent or null, or a coordinate stands without the other.",
        WRONG_TYPE: "A field, or the whole record, is of another type than the contract's.",
        UNKNOWN_VALUE: "A field takes one of a few words, and holds another.",
        BAD_ID: "An identifier is empty, longer than 128 characters, padded with spaces or holds control characters.",
        BAD_TEXT: "A text, an attribute or the number of attributes exceeds its bound, or the text is not Unicode.",
        BAD_CODE: "A code made of digits (mcc, bin, last4) is not the digits it must be.",
        BAD_CURRENCY: "The currency is no ISO 4217 code, in upper case, that a payment can be made in.",
        BAD_COUNTRY: "The country is no ISO 3166-1 alpha-2 code in upper case.",
        BAD_IP: "The IP address is neither IPv4 nor IPv6.",
        OUT_OF_RANGE: "A number is outside of its range, or not finite.",
        BAD_TIME: "The event time is no RFC 3339 date-time with a zone, or lies before the year 2000.",
        FUTURE_EVENT: "The event time lies further in the future than clocks differ.",
        BAD_PAN: "The card number has another length than 12 to 19 digits, or its check digit is wrong.",
        PAN_WITHOUT_KEY: "A card number came in, and no key to tokenise it is configured.",
        PAN_CONFLICT: "A card number came with a card_id, bin or last4 that is not its own.",
        PAN_IN_IDENTIFIER: "An identifier looks like a card number and its field is not declared safe.",
        CONFLICTING_DUPLICATE: "The same id came before with another content.",
        UNMATCHED_OUTCOME: "No payment of this id was seen within the time in which outcomes are matched.",
        UNKNOWN_CONTRACT: "The schema that the record names is not one that this stream carries.",
    }
)
"""Reason of a dead letter to its meaning."""

REASON_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Where and how fast
        "IMPOSSIBLE_TRAVEL": "The card or account was further away than anyone could have travelled since.",
        "COUNTRY_MISMATCH": "The country of the payment is not the country of its IP address.",
        "COUNTRY_CHANGE": "The country changed since the last payment in a way unusual for this card or account.",
        "HIGH_RISK_COUNTRY": "The payment comes from a country that the policy lists as high risk.",
        "ANONYMOUS_IP": "The payment came through a VPN, a proxy, Tor or a hosting network.",
        # How often and how much
        "CARD_TESTING": "Many small or verification payments in a short time: stolen cards being tried.",
        "CARD_TESTING_AT_MERCHANT": "A merchant or terminal sees a burst of small payments of many cards.",
        "VELOCITY_BURST": "Far more payments in a short time than people make.",
        "SPEND_BURST": "Far more money in a short time than the policy allows.",
        "AMOUNT_UNUSUAL": "The amount is far above what this card or account usually spends.",
        "AMOUNT_LIMIT": "The amount alone exceeds the policy's limit.",
        "MANY_MERCHANTS": "The card was used at unusually many merchants in a short time.",
        "MANY_CARDS_ON_ACCOUNT": "Unusually many cards were used on the account in a short time.",
        "MANY_CARDS_ON_IP": "Unusually many cards were used from the IP address in a short time.",
        "MANY_ACCOUNTS_ON_IP": "Unusually many accounts paid from the IP address in a short time.",
        "NIGHT_ACTIVITY": "A large payment at an hour at which this kind of payment is rare.",
        "DORMANT_REACTIVATED": "A card or account unused for long pays a large amount at once.",
        "BUST_OUT": "Spending rises steeply after a quiet history: credit being used up before a default.",
        "CASH_OUT": "Cash is withdrawn fast, or right after money or access changed hands.",
        "REFUND_ABUSE": "Refunds or reversals are unusually many or large against the purchases.",
        # Device
        "DEVICE_BLOCKED": "The device is blocked.",
        "DEVICE_ROOTED": "The device is rooted or jailbroken.",
        "DEVICE_EMULATED": "The device is an emulator.",
        "DEVICE_NEW": "The device was first seen shortly before the payment.",
        "DEVICE_CHANGED": "The fingerprint of the device changed shortly before the payment.",
        "MANY_ACCOUNTS_ON_DEVICE": "More accounts were seen on the device than one household has.",
        "MANY_CARDS_ON_DEVICE": "Unusually many cards were used on the device in a short time.",
        "LOGIN_FAILURES": "Logins failed repeatedly on the device shortly before the payment.",
        # Account and its holder
        "ACCOUNT_TAKEOVER": "Access to the account changed, then a payment of an unusual kind: someone else acts.",
        "ACCOUNT_NEW": "The account was opened shortly before the payment.",
        "ACCOUNT_CLOSED": "The account is closed.",
        "CREDENTIALS_CHANGED": "Credentials were changed shortly before the payment.",
        "ADDRESS_CHANGED": "The address was changed shortly before the payment.",
        "MFA_FAILED": "The last multi-factor authentication failed.",
        "NEW_PAYEE": "A first transfer to this payee.",
        "PAYEE_SCAM": "A payee receives from many payers at once, or in a pattern of invoice and romance scams.",
        "MULE_ACCOUNT": "Money comes in and leaves at once: the account forwards it for somebody else.",
        "SANCTIONS_HIT": "The account's holder matches a sanctions list and was not cleared.",
        "PEP_HIT": "The account's holder is a politically exposed person and was not cleared.",
        "KYC_FAILED": "The identity of the account's holder could not be verified.",
        # Authentication of the payment
        "THREE_DS_FAILED": "3-D Secure failed or was rejected.",
        "THREE_DS_MISSING": "A remote payment that should have been authenticated was not.",
        "FALLBACK_ENTRY": "A chip card was read by its magnetic stripe or keyed in.",
        "RECURRING_UNUSUAL": "A recurring payment without an earlier one, or of another amount.",
        # Merchant and terminal
        "MERCHANT_RISK": "The merchant's recent share of fraud is high.",
        "TERMINAL_COMPROMISED": "The terminal's recent share of fraud is high: cards may be copied there.",
        "HIGH_RISK_MCC": "The merchant's category is one that the policy lists as high risk.",
        # Score and circumstances
        "HIGH_SCORE": "The model's score reaches the threshold of review or decline.",
        "ELEVATED_SCORE": "The model's score reaches the threshold of challenge.",
        "NO_RISK_FOUND": "No active rule holds, and the score, if there is one, asks for nothing.",
        "FRAUD_HISTORY": "The card, account or device had confirmed fraud lately.",
        "EXPLORATION": "The action was drawn at random, within bounds, to learn from what it brings.",
        "DEADLINE_MISSED": "The score came too late; the policy's deadline action applies.",
        "MODEL_UNAVAILABLE": "No model could score the payment; rules alone decided.",
        "FEATURES_INCOMPLETE": "Features that a rule needs were missing, and the policy asks for care then.",
    }
)
"""Reason code of a decision to its meaning."""
