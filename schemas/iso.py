"""Country and currency codes that a record may carry.

Sources: ISO 4217 as maintained by SIX (list one, current currencies and funds, with minor units; list three for the
withdrawn ones), ISO 3166-1 alpha-2 as published by ISO's online browsing platform. Not taken from ISO 4217: metals,
units of account, testing and "no currency" (XAU, XDR, XTS, XXX ...), in none of which a card payment can be made.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_TWO_DIGITS: Final = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY "
    "COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS "
    "INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR "
    "MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP "
    "STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_NO_DIGITS: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DIGITS: Final = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DIGITS: Final = "CLF UYW"
# Withdrawn since 2014: history is replayed, and what was money then must still be readable.
_WITHDRAWN_TWO_DIGITS: Final = "ANG BGN CUC HRK LTL LVL MRO SLL STD VEF ZWL"
_WITHDRAWN_NO_DIGITS: Final = "BYR"

CURRENCY_EXPONENT: Final[Mapping[str, int]] = MappingProxyType(
    {
        code: digits
        for digits, codes in (
            (2, _TWO_DIGITS),
            (0, _NO_DIGITS),
            (3, _THREE_DIGITS),
            (4, _FOUR_DIGITS),
            (2, _WITHDRAWN_TWO_DIGITS),
            (0, _WITHDRAWN_NO_DIGITS),
        )
        for code in codes.split()
    }
)
"""Currency code to the digits of its minor unit: 100 JPY is 100 minor units, 100 EUR is 10,000."""

CURRENCIES: Final = frozenset(CURRENCY_EXPONENT)

_COUNTRY_CODES: Final = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW "
    "BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI "
    "FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN "
    "IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME "
    "MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF "
    "PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV "
    "SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE "
    "YT ZA ZM ZW"
)
ISO_COUNTRIES: Final = frozenset(_COUNTRY_CODES.split())
COUNTRIES: Final = ISO_COUNTRIES | {"XK"}
"""ISO's 249 codes, and XK: user-assigned, but what card schemes, MaxMind and GeoNames all call Kosovo."""
