"""Where an event happened: from its own coordinates, else from its IP address, else from its country.

What a place means depends on who stands there:

- **in person** (card_present, atm): coordinates and country are the terminal's, and so the card holder's. An IP address
  is used only where it does not contradict the country: the address of a terminal is often that of a gateway abroad.
- **remote** (ecommerce, wallet, transfer): coordinates are the paying device's, or its IP address locates it. The
  country of the payment is the merchant's, where nobody was: it locates nothing. Over an anonymising network nothing
  locates the payer: the address is the network's, and coordinates behind it are no better than the client's word.
- **device event**: coordinates, else IP address (unless anonymising), else country, all of them the device's.

The coordinates 0, 0 are what broken clients send for "unknown" (it is open sea); they locate nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import maxminddb

from operators.centroids import COUNTRY_CIRCLES
from operators.features import Geo as GeoSettings
from operators.inflight import Fix
from operators.networks import Networks, load_networks, parse_address
from schemas.errors import ProfileError
from schemas.events import DeviceEvent, Transaction

IN_PERSON: Final = frozenset({"card_present", "atm"})
"""Channels in which the card holder stands at the terminal."""

EVENT_RADIUS_KM: Final = 1.0
"""Accuracy of coordinates that come without one: a satellite fix in a city, or a terminal in a shopping centre. With 0,
a walk between two tills within seconds would look fast; above some km, neighbouring towns would count as one place."""

UNSTATED_IP_RADIUS_KM: Final = 1000.0
"""Accuracy of an IP's coordinates if the database states none and the country is unknown: the widest MaxMind states."""

IP_CACHE: Final = 50_000
"""Addresses whose facts are kept, about 0.5 KB each. Smaller costs repeated look-ups of 5 to 10 µs, larger memory."""

ANONYMOUS_FIELDS: Final = (
    "is_anonymous",
    "is_anonymous_vpn",
    "is_hosting_provider",
    "is_public_proxy",
    "is_residential_proxy",
    "is_tor_exit_node",
)
"""Fields of MaxMind's Anonymous-IP databases; true in any of them makes the address anonymous."""

_CITY_FIELDS: Final = ("country", "location", "registered_country")
_SAMPLE: Final = 1000


@dataclass(frozen=True, slots=True)
class IpFacts:
    """What is known of an IP address.

    Attributes:
        country: ISO 3166-1 alpha-2 code, None when unknown.
        anonymous: Whether it belongs to an anonymising network; None without such data or without an address.
        fix: Where it is, None when unknown or anonymous.
    """

    country: str | None
    anonymous: bool | None
    fix: Fix | None


NO_FACTS: Final = IpFacts(None, None, None)


class Geo:
    """Geo data of a profile: an optional City database, Anonymous-IP database and lists of anonymising networks.

    Attributes:
        version: Names the data a decision was made with, "GeoLite2-City@1770245369+lists@9f86d081884c": type and build
            time of each database, content hash of the lists; None without any data.
        active: Whether there is any data to look addresses up in.
    """

    def __init__(
        self,
        city: maxminddb.Reader | None = None,
        anonymous: maxminddb.Reader | None = None,
        networks: Networks | None = None,
        version: str | None = None,
    ) -> None:
        self.version = version
        self.active = city is not None or anonymous is not None or networks is not None
        self._city = city
        self._anonymous = anonymous
        self._networks = networks
        self._cached: Callable[[str], IpFacts] = lru_cache(IP_CACHE)(self._look_up)

    @classmethod
    def load(cls, settings: GeoSettings) -> Geo:
        """Open what `settings` names.

        Raises:
            ProfileError: a file is missing, corrupt, or holds something else; names the file.
        """
        versions: list[str] = []
        city = _open(settings.city, _CITY_FIELDS, "a City database (location, country)", versions)
        anonymous = _open(settings.anonymous, ANONYMOUS_FIELDS, "an Anonymous-IP database (is_anonymous)", versions)
        networks = None
        if settings.anonymous_lists:
            networks, digest = load_networks(settings.anonymous_lists)
            versions.append(f"lists@{digest}")
        return cls(city, anonymous, networks, "+".join(versions) or None)

    def of_ip(self, ip: str | None) -> IpFacts:
        """What is known of `ip`; text that is no address has no facts."""
        return NO_FACTS if ip is None or not self.active else self._cached(ip)

    def locate_payment(self, event: Transaction, ip: IpFacts) -> Fix | None:
        """Where the payer was, by the rules on top of this module; `ip` are the facts of the payment's address."""
        in_person = event.channel in IN_PERSON
        if not in_person and ip.anonymous:
            return None
        latitude, longitude = event.latitude, event.longitude
        if latitude is not None and longitude is not None and (latitude or longitude):
            radius_km = event.location_accuracy_km
            return Fix(latitude, longitude, EVENT_RADIUS_KM if radius_km is None else radius_km, "event")
        if not in_person:
            return ip.fix
        if ip.fix is not None and event.country in {None, ip.country}:
            return ip.fix
        return _country_fix(event.country, "country")

    def locate_device(self, event: DeviceEvent, ip: IpFacts) -> Fix | None:
        """Where the device was, by the rules on top of this module; `ip` are the facts of the event's address."""
        if ip.anonymous:
            return None
        latitude, longitude = event.latitude, event.longitude
        if latitude is not None and longitude is not None and (latitude or longitude):
            return Fix(latitude, longitude, EVENT_RADIUS_KM, "event")
        return ip.fix or _country_fix(event.country, "country")

    def _look_up(self, ip: str) -> IpFacts:
        address = parse_address(ip)
        if address is None:
            return NO_FACTS
        anonymous: bool | None = None
        if self._networks is not None:
            anonymous = address in self._networks
        if self._anonymous is not None and not anonymous:
            found = _record(self._anonymous, address)
            anonymous = any(found.get(field) for field in ANONYMOUS_FIELDS)
        record = {} if self._city is None else _record(self._city, address)
        country = _code(record.get("country"))
        fix = None if anonymous else _ip_fix(record, country)
        return IpFacts(country, anonymous, fix)


def _open(path: Path | None, fields: tuple[str, ...], expected: str, versions: list[str]) -> maxminddb.Reader | None:
    """Open a database, see that it holds some of `fields`, and add its version."""
    if path is None:
        return None
    try:
        reader = maxminddb.open_database(path)
        metadata = reader.metadata()
        # By content, not by type name: a wrong file would otherwise pass as "nobody is anonymous".
        fits = any(
            isinstance(record, dict) and not record.keys().isdisjoint(fields)
            for _, (_, record) in zip(range(_SAMPLE), reader, strict=False)
        )
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); expected {expected} in MaxMind's mmdb format"
        raise ProfileError(msg) from error
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        msg = f"{path}: is not a readable mmdb file ({error}); expected {expected} in MaxMind's mmdb format"
        raise ProfileError(msg) from error
    if not fits:
        msg = f"{path}: found a database of type {metadata.database_type!r}; expected {expected}"
        raise ProfileError(msg)
    versions.append(f"{metadata.database_type}@{metadata.build_epoch}")
    return reader


def _record(reader: maxminddb.Reader, address: Any) -> dict[str, Any]:
    """The record of `address`, empty when there is none.

    Raises:
        ProfileError: the database is corrupt at this address, which only a look-up finds.
    """
    try:
        found = reader.get(address)
    except maxminddb.InvalidDatabaseError as error:
        msg = f"geo database {reader.metadata().database_type!r} is corrupt ({error}); replace the file and start again"
        raise ProfileError(msg) from error
    except ValueError:  # an IPv6 address in an IPv4-only database
        return {}
    return found if isinstance(found, dict) else {}


def _code(country: object) -> str | None:
    code = country.get("iso_code") if isinstance(country, dict) else None
    return code if isinstance(code, str) else None


def _ip_fix(record: dict[str, Any], country: str | None) -> Fix | None:
    """Coordinates of the record with their radius, else the country's circle."""
    location = record.get("location")
    if isinstance(location, dict):
        latitude, longitude = location.get("latitude"), location.get("longitude")
        if isinstance(latitude, float) and isinstance(longitude, float):
            radius_km = location.get("accuracy_radius")
            if not isinstance(radius_km, int | float):
                circle = COUNTRY_CIRCLES.get(country or "")
                radius_km = circle[2] if circle else UNSTATED_IP_RADIUS_KM
            return Fix(latitude, longitude, float(radius_km), "ip")
    return _country_fix(country, "ip")


def _country_fix(country: str | None, source: str) -> Fix | None:
    circle = COUNTRY_CIRCLES.get(country) if country is not None else None
    return None if circle is None else Fix(circle[0], circle[1], circle[2], source)
