"""What people pay for: merchant categories with their amounts and hours, and the profiles of a week.

Medians and spreads are ours, chosen to look like a household's statement; merchant category codes are ISO 18245's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of merchant.

    Attributes:
        name: For people.
        mcc: Merchant category code.
        median_eur: Median amount in euros.
        sigma: Standard deviation of the logarithm of the amount.
        hours: Name of the profile of the day.
        days: Name of the profile of the week.
        weight: Relative number of payments among its kind.
    """

    name: str
    mcc: int
    median_eur: float
    sigma: float
    hours: str
    days: str
    weight: float


SHOPS: Final = (
    Category("grocery", 5411, 28.0, 0.7, "day", "shopping", 24),
    Category("convenience", 5499, 6.0, 0.6, "long_day", "even", 8),
    Category("restaurant", 5812, 32.0, 0.6, "meals", "going_out", 10),
    Category("fast_food", 5814, 9.0, 0.5, "meals", "even", 11),
    Category("bar", 5813, 18.0, 0.6, "night", "going_out", 4),
    Category("fuel", 5541, 52.0, 0.4, "commute", "even", 7),
    Category("pharmacy", 5912, 14.0, 0.7, "day", "shopping", 5),
    Category("clothing", 5651, 48.0, 0.7, "day", "shopping", 4),
    Category("transit", 4111, 3.5, 0.5, "commute", "work", 7),
    Category("taxi", 4121, 16.0, 0.5, "night", "going_out", 2),
    Category("electronics", 5732, 120.0, 0.9, "day", "shopping", 1.5),
    Category("department", 5311, 40.0, 0.8, "day", "shopping", 3),
    Category("hardware", 5200, 45.0, 0.9, "day", "shopping", 2.5),
    Category("hairdresser", 7230, 35.0, 0.4, "day", "shopping", 1.5),
    Category("cinema", 7832, 14.0, 0.4, "night", "going_out", 1.5),
    Category("doctor", 8011, 60.0, 0.7, "day", "work", 0.8),
    Category("jeweller", 5944, 190.0, 0.9, "day", "shopping", 0.3),
    Category("hotel", 7011, 170.0, 0.6, "day", "even", 0.3),
)
CASH: Final = Category("cash", 6011, 80.0, 0.6, "long_day", "shopping", 1)
ONLINE: Final = (
    Category("marketplace", 5262, 30.0, 0.8, "online", "even", 30),
    Category("fashion", 5691, 60.0, 0.7, "online", "even", 12),
    Category("digital_goods", 5816, 9.0, 0.8, "online", "even", 12),
    Category("books", 5942, 18.0, 0.5, "online", "even", 7),
    Category("electronics_online", 5732, 140.0, 0.9, "online", "even", 5),
    Category("food_delivery", 5814, 26.0, 0.4, "meals", "going_out", 14),
    Category("airline", 4511, 210.0, 0.6, "online", "even", 3),
    Category("travel_agency", 4722, 280.0, 0.8, "online", "even", 2),
    Category("tickets", 7922, 60.0, 0.6, "online", "even", 4),
    Category("gambling", 7995, 25.0, 0.9, "night", "going_out", 2),
)
SUBSCRIPTIONS: Final = (
    Category("streaming", 4899, 11.99, 0.2, "long_day", "even", 5),
    Category("telecom", 4814, 29.99, 0.3, "long_day", "even", 4),
    Category("insurance", 6300, 42.0, 0.5, "long_day", "even", 2),
    Category("gym", 7997, 29.9, 0.3, "long_day", "even", 2),
    Category("software", 5734, 9.99, 0.6, "long_day", "even", 3),
)
TRANSFERS: Final = Category("transfer", 0, 90.0, 1.1, "online", "work", 1)

# Relative numbers of payments by local hour, 0 to 23.
_HOURS: Final = {
    "day": (0, 0, 0, 0, 0, 0, 1, 3, 6, 9, 11, 11, 10, 9, 9, 10, 12, 13, 11, 7, 3, 1, 0, 0),
    "long_day": (1, 0.5, 0.3, 0.3, 0.3, 1, 4, 7, 8, 8, 8, 8, 9, 8, 8, 8, 9, 10, 10, 8, 6, 5, 3, 2),
    "meals": (1, 0.4, 0.1, 0, 0, 0, 1, 3, 4, 3, 3, 8, 16, 14, 5, 3, 3, 5, 11, 15, 12, 6, 3, 2),
    "night": (8, 5, 3, 1, 0.5, 0.2, 0.2, 0.5, 1, 1, 1, 1, 2, 2, 2, 2, 3, 5, 8, 11, 13, 14, 13, 10),
    "commute": (0.3, 0.2, 0.1, 0.1, 0.3, 2, 8, 14, 12, 5, 3, 3, 4, 4, 4, 6, 11, 14, 10, 5, 3, 2, 1, 0.6),
    "online": (3, 1.5, 0.8, 0.5, 0.4, 0.5, 1, 2, 4, 5, 6, 6, 7, 6, 5, 5, 6, 7, 8, 10, 12, 12, 9, 5),
}
# Relative numbers of payments by weekday, Monday first.
_DAYS: Final = {
    "even": (1, 1, 1, 1, 1, 1, 1),
    "shopping": (0.9, 0.9, 0.9, 1, 1.3, 1.5, 0.4),
    "going_out": (0.6, 0.7, 0.8, 1, 1.6, 1.9, 1.0),
    "work": (1.2, 1.2, 1.2, 1.2, 1.2, 0.6, 0.4),
}


def hour_profile(name: str) -> NDArray[np.float64]:
    """Probability of each local hour."""
    weights = np.array(_HOURS[name], dtype=np.float64)
    return weights / float(weights.sum())


def day_profile(name: str) -> NDArray[np.float64]:
    """Relative weight of each weekday, Monday first."""
    return np.array(_DAYS[name], dtype=np.float64)


def shares(categories: tuple[Category, ...]) -> NDArray[np.float64]:
    """Probability of each category."""
    weights = np.array([category.weight for category in categories])
    return weights / float(weights.sum())
