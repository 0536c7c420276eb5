"""Where people live and travel: cities with coordinates, country, time zone and currency.

Facts, not modelled: positions to about a kilometre, populations (urban, rounded, in thousands), standard-time offsets
from UTC in hours; written down from common knowledge and checked against GeoNames (https://www.geonames.org, CC BY 4.0)
by tests/load_tests/traffic/test_cities.py. Daylight saving is left out: nothing here depends on an hour of local time.
Rates are rough, of 2026, only there to give local amounts a plausible size; Weir converts with the profile's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM: Final = 6371.0088  # mean radius, IUGG

# name|country|latitude|longitude|UTC offset|population in thousands
_TABLE: Final = """
London|GB|51.51|-0.13|0|8960
Birmingham|GB|52.48|-1.90|0|1140
Manchester|GB|53.48|-2.24|0|550
Glasgow|GB|55.86|-4.25|0|630
Edinburgh|GB|55.95|-3.20|0|510
Bristol|GB|51.46|-2.60|0|470
Dublin|IE|53.33|-6.25|0|1170
Cork|IE|51.90|-8.47|0|220
Paris|FR|48.85|2.35|1|2140
Lyon|FR|45.75|4.85|1|520
Marseille|FR|43.30|5.38|1|870
Toulouse|FR|43.60|1.44|1|490
Nice|FR|43.70|7.27|1|340
Lille|FR|50.63|3.06|1|230
Bordeaux|FR|44.84|-0.58|1|260
Strasbourg|FR|48.58|7.75|1|290
Brussels|BE|50.85|4.35|1|1220
Antwerp|BE|51.22|4.40|1|530
Amsterdam|NL|52.37|4.89|1|870
Rotterdam|NL|51.92|4.48|1|650
Luxembourg|LU|49.61|6.13|1|130
Berlin|DE|52.52|13.41|1|3660
Hamburg|DE|53.55|10.00|1|1850
Munich|DE|48.14|11.58|1|1490
Cologne|DE|50.93|6.95|1|1080
Frankfurt am Main|DE|50.12|8.68|1|760
Stuttgart|DE|48.78|9.18|1|630
Leipzig|DE|51.34|12.37|1|600
Dresden|DE|51.05|13.74|1|560
Vienna|AT|48.21|16.37|1|1930
Graz|AT|47.07|15.45|1|290
Salzburg|AT|47.80|13.04|1|155
Zürich|CH|47.37|8.55|1|430
Geneva|CH|46.20|6.15|1|200
Basel|CH|47.56|7.57|1|175
Milan|IT|45.46|9.19|1|1370
Rome|IT|41.89|12.51|1|2760
Naples|IT|40.85|14.27|1|910
Turin|IT|45.07|7.69|1|850
Bologna|IT|44.49|11.34|1|390
Venice|IT|45.44|12.33|1|250
Palermo|IT|38.12|13.36|1|630
Madrid|ES|40.42|-3.70|1|3260
Barcelona|ES|41.39|2.16|1|1640
Valencia|ES|39.47|-0.38|1|790
Sevilla|ES|37.38|-5.97|1|680
Málaga|ES|36.72|-4.42|1|580
Bilbao|ES|43.26|-2.93|1|345
Palma|ES|39.57|2.65|1|420
Lisbon|PT|38.72|-9.13|0|545
Porto|PT|41.15|-8.61|0|235
Copenhagen|DK|55.68|12.57|1|1150
Aarhus|DK|56.16|10.21|1|285
Stockholm|SE|59.33|18.07|1|1520
Göteborg|SE|57.71|11.97|1|590
Malmö|SE|55.61|13.00|1|350
Oslo|NO|59.91|10.75|1|710
Bergen|NO|60.39|5.33|1|285
Helsinki|FI|60.17|24.94|2|660
Tampere|FI|61.50|23.79|2|245
Reykjavík|IS|64.14|-21.90|0|130
Tallinn|EE|59.44|24.75|2|440
Riga|LV|56.95|24.11|2|610
Vilnius|LT|54.69|25.28|2|570
Warsaw|PL|52.23|21.01|1|1790
Kraków|PL|50.06|19.94|1|780
Wrocław|PL|51.10|17.03|1|640
Gdańsk|PL|54.35|18.65|1|470
Poznań|PL|52.41|16.93|1|540
Prague|CZ|50.09|14.42|1|1310
Brno|CZ|49.20|16.61|1|380
Bratislava|SK|48.15|17.11|1|440
Budapest|HU|47.50|19.04|1|1740
Ljubljana|SI|46.05|14.51|1|285
Zagreb|HR|45.81|15.98|1|790
Split|HR|43.51|16.44|1|178
Bucharest|RO|44.43|26.11|2|1880
Cluj-Napoca|RO|46.77|23.60|2|320
Sofia|BG|42.70|23.32|2|1240
Athens|GR|37.98|23.73|2|665
Thessaloníki|GR|40.64|22.93|2|320
Nicosia|CY|35.17|33.35|2|200
Valletta|MT|35.90|14.51|1|7
Istanbul|TR|41.01|28.95|3|15460
Ankara|TR|39.92|32.85|3|5660
Antalya|TR|36.91|30.70|3|1350
Kyiv|UA|50.45|30.52|2|2800
Tel Aviv|IL|32.08|34.78|2|440
Cairo|EG|30.06|31.25|2|9600
Casablanca|MA|33.59|-7.61|1|3360
Marrakesh|MA|31.63|-8.00|1|930
Tunis|TN|36.82|10.17|1|700
Lagos|NG|6.45|3.39|1|15390
Accra|GH|5.56|-0.20|0|1960
Nairobi|KE|-1.28|36.82|3|4400
Johannesburg|ZA|-26.20|28.04|2|5640
Cape Town|ZA|-33.93|18.42|2|4620
Dubai|AE|25.08|55.31|4|3480
Abu Dhabi|AE|24.45|54.40|4|1480
Doha|QA|25.29|51.53|3|1190
Kuwait City|KW|29.37|47.98|3|60
Riyadh|SA|24.69|46.72|3|7680
Mumbai|IN|19.07|72.88|5.5|12690
Delhi|IN|28.65|77.23|5.5|10930
Bengaluru|IN|12.97|77.59|5.5|8440
Colombo|LK|6.94|79.85|5.5|650
Bangkok|TH|13.75|100.50|7|8280
Phuket|TH|7.89|98.40|7|90
Kuala Lumpur|MY|3.14|101.69|8|1780
Singapore|SG|1.29|103.85|8|5640
Jakarta|ID|-6.21|106.85|7|10560
Denpasar|ID|-8.65|115.22|8|900
Manila|PH|14.60|120.98|8|1850
Ho Chi Minh City|VN|10.82|106.63|7|9390
Hong Kong|HK|22.28|114.17|8|7480
Taipei|TW|25.05|121.53|8|2640
Shanghai|CN|31.22|121.46|8|24870
Beijing|CN|39.91|116.40|8|18960
Shenzhen|CN|22.55|114.07|8|17490
Seoul|KR|37.57|126.98|9|9740
Busan|KR|35.10|129.04|9|3390
Tokyo|JP|35.69|139.69|9|13960
Osaka|JP|34.69|135.50|9|2750
Sapporo|JP|43.06|141.35|9|1970
Sydney|AU|-33.87|151.21|10|5310
Melbourne|AU|-37.81|144.96|10|5080
Perth|AU|-31.95|115.86|8|2140
Auckland|NZ|-36.85|174.76|12|1440
New York City|US|40.71|-74.01|-5|8800
Boston|US|42.36|-71.06|-5|650
Washington|US|38.90|-77.04|-5|690
Miami|US|25.77|-80.19|-5|440
Atlanta|US|33.75|-84.39|-5|500
Chicago|US|41.85|-87.65|-6|2750
Dallas|US|32.78|-96.81|-6|1300
Houston|US|29.76|-95.36|-6|2300
Denver|US|39.74|-104.98|-7|715
Las Vegas|US|36.17|-115.14|-8|640
Los Angeles|US|34.05|-118.24|-8|3900
San Francisco|US|37.77|-122.42|-8|870
Seattle|US|47.61|-122.33|-8|740
Honolulu|US|21.31|-157.86|-10|350
Toronto|CA|43.71|-79.40|-5|2790
Montréal|CA|45.51|-73.59|-5|1760
Vancouver|CA|49.25|-123.12|-8|660
Mexico City|MX|19.43|-99.13|-6|9210
Cancún|MX|21.17|-86.85|-5|890
São Paulo|BR|-23.55|-46.64|-3|12400
Rio de Janeiro|BR|-22.91|-43.18|-3|6750
Buenos Aires|AR|-34.61|-58.38|-3|3120
Santiago|CL|-33.46|-70.65|-4|5740
Bogotá|CO|4.61|-74.08|-5|7670
Lima|PE|-12.04|-77.03|-5|9750
"""

# country: (currency, its rough value in one euro, share of the bank's customers relative to the country's population)
_COUNTRIES: Final[dict[str, tuple[str, float, float]]] = {
    "DE": ("EUR", 1.0, 1.0), "AT": ("EUR", 1.0, 1.0), "FR": ("EUR", 1.0, 0.8), "NL": ("EUR", 1.0, 1.0),
    "BE": ("EUR", 1.0, 1.0), "LU": ("EUR", 1.0, 1.0), "IE": ("EUR", 1.0, 0.6), "ES": ("EUR", 1.0, 0.6),
    "PT": ("EUR", 1.0, 0.6), "IT": ("EUR", 1.0, 0.6), "FI": ("EUR", 1.0, 0.5), "EE": ("EUR", 1.0, 0.5),
    "LV": ("EUR", 1.0, 0.4), "LT": ("EUR", 1.0, 0.4), "SK": ("EUR", 1.0, 0.6), "SI": ("EUR", 1.0, 0.6),
    "HR": ("EUR", 1.0, 0.4), "GR": ("EUR", 1.0, 0.3), "CY": ("EUR", 1.0, 0.2), "MT": ("EUR", 1.0, 0.2),
    "BG": ("EUR", 1.0, 0.2), "GB": ("GBP", 0.86, 0.4), "CH": ("CHF", 0.94, 0.9), "SE": ("SEK", 11.2, 0.5),
    "DK": ("DKK", 7.46, 0.5), "NO": ("NOK", 11.7, 0.4), "IS": ("ISK", 146.0, 0.2), "PL": ("PLN", 4.3, 0.5),
    "CZ": ("CZK", 25.0, 0.5), "HU": ("HUF", 395.0, 0.3), "RO": ("RON", 5.0, 0.2), "TR": ("TRY", 45.0, 0.02),
    "UA": ("UAH", 47.0, 0.0), "IL": ("ILS", 4.0, 0.0), "EG": ("EGP", 55.0, 0.0), "MA": ("MAD", 10.7, 0.0),
    "TN": ("TND", 3.4, 0.0), "NG": ("NGN", 1700.0, 0.0), "GH": ("GHS", 13.0, 0.0), "KE": ("KES", 150.0, 0.0),
    "ZA": ("ZAR", 20.5, 0.0), "AE": ("AED", 4.2, 0.01), "QA": ("QAR", 4.2, 0.0), "KW": ("KWD", 0.35, 0.0),
    "SA": ("SAR", 4.3, 0.0), "IN": ("INR", 98.0, 0.0), "LK": ("LKR", 340.0, 0.0), "TH": ("THB", 37.5, 0.0),
    "MY": ("MYR", 4.9, 0.0), "SG": ("SGD", 1.5, 0.01), "ID": ("IDR", 18500.0, 0.0), "PH": ("PHP", 65.0, 0.0),
    "VN": ("VND", 30000.0, 0.0), "HK": ("HKD", 9.0, 0.0), "TW": ("TWD", 35.0, 0.0), "CN": ("CNY", 8.2, 0.0),
    "KR": ("KRW", 1620.0, 0.0), "JP": ("JPY", 172.0, 0.02), "AU": ("AUD", 1.78, 0.0), "NZ": ("NZD", 1.98, 0.0),
    "US": ("USD", 1.15, 0.04), "CA": ("CAD", 1.6, 0.02), "MX": ("MXN", 21.5, 0.0), "BR": ("BRL", 6.3, 0.0),
    "AR": ("ARS", 1600.0, 0.0), "CL": ("CLP", 1100.0, 0.0), "CO": ("COP", 4600.0, 0.0), "PE": ("PEN", 4.1, 0.0),
}  # fmt: skip

# ISO 4217 minor units where they are not 2.
_MINOR_UNITS: Final = {"JPY": 0, "KRW": 0, "ISK": 0, "CLP": 0, "VND": 0, "KWD": 3, "TND": 3}


@dataclass(frozen=True, slots=True)
class Cities:
    """The table as columns; a city is its index.

    Attributes:
        names: City names.
        country: Index into `countries`, one a city.
        latitude: WGS 84 degrees.
        longitude: WGS 84 degrees.
        utc_offset_us: Local standard time minus UTC, µs.
        population: Inhabitants.
        home_weight: Relative number of the bank's customers.
        countries: ISO 3166-1 alpha-2 codes.
        currency_of_country: Index into `currencies`, one a country.
        currencies: ISO 4217 codes.
        per_euro: Rough units of each currency in one euro.
        minor_per_unit: Minor units in one major unit of each currency.
        distance_km: Great-circle distances between the cities.
    """

    names: tuple[str, ...]
    country: NDArray[np.int16]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    utc_offset_us: NDArray[np.int64]
    population: NDArray[np.float64]
    home_weight: NDArray[np.float64]
    countries: tuple[str, ...]
    currency_of_country: NDArray[np.int16]
    currencies: tuple[str, ...]
    per_euro: NDArray[np.float64]
    minor_per_unit: NDArray[np.float64]
    distance_km: NDArray[np.float64]


def haversine_km(
    latitude: NDArray[np.float64] | float,
    longitude: NDArray[np.float64] | float,
    other_latitude: NDArray[np.float64] | float,
    other_longitude: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Great-circle distance in km between points in degrees; broadcasts.

    Source: haversine, Sinnott 1984, Sky & Telescope 68(2):159.
    """
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    half_dphi = (other_phi - phi) / 2
    half_dlambda = np.radians(np.asarray(other_longitude) - np.asarray(longitude)) / 2
    a = np.sin(half_dphi) ** 2 + np.cos(phi) * np.cos(other_phi) * np.sin(half_dlambda) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(a, 0.0, 1.0))))


def offset_position(
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    north_km: NDArray[np.float64],
    east_km: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points `north_km` and `east_km` away: flat earth, good to a percent within 200 km below 70° north."""
    degree_km = np.pi * EARTH_RADIUS_KM / 180
    moved = latitude + north_km / degree_km
    return moved, longitude + east_km / (degree_km * np.cos(np.radians(latitude)))


def load_cities() -> Cities:
    """Read the table above; one city a line, unknown countries are a KeyError."""
    rows = [line.split("|") for line in _TABLE.strip().splitlines()]
    countries = tuple(_COUNTRIES)
    currencies = tuple(dict.fromkeys(currency for currency, _, _ in _COUNTRIES.values()))
    rate = {currency: per_euro for currency, per_euro, _ in _COUNTRIES.values()}
    latitude = np.array([float(row[2]) for row in rows])
    longitude = np.array([float(row[3]) for row in rows])
    population = np.array([float(row[5]) * 1000 for row in rows])
    share = np.array([_COUNTRIES[row[1]][2] for row in rows])
    return Cities(
        names=tuple(row[0] for row in rows),
        country=np.array([countries.index(row[1]) for row in rows], dtype=np.int16),
        latitude=latitude,
        longitude=longitude,
        utc_offset_us=np.array([int(float(row[4]) * 3_600_000_000) for row in rows], dtype=np.int64),
        population=population,
        home_weight=population * share / float((population * share).sum()),
        countries=countries,
        currency_of_country=np.array([currencies.index(_COUNTRIES[c][0]) for c in countries], dtype=np.int16),
        currencies=currencies,
        per_euro=np.array([rate[c] for c in currencies]),
        minor_per_unit=np.array([10.0 ** _MINOR_UNITS.get(c, 2) for c in currencies]),
        distance_km=haversine_km(latitude[:, None], longitude[:, None], latitude[None, :], longitude[None, :]),
    )
