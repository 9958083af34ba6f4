"""The data of the sandbox's API: made up, the same at each start, and enough for several pages."""

from collections.abc import Iterator
from typing import Any, Final

Record = dict[str, Any]

CUSTOMERS: Final = 57
_INVOICES: Final = 24

_NAMES: Final = ("Norrsken", "Lönnberga", "Havsörn", "Björkdal", "Silverån", "Fyrvakt", "Granlund", "Älvstrand")
_TRADES: Final = ("Bageri", "Snickeri", "Åkeri", "Konsult", "Redovisning", "Trädgård", "Elservice")
_CITIES: Final = ("Umeå", "Göteborg", "Malmö", "Örebro", "Visby", "Luleå")
_RATINGS: Final = ("AAA", "AA", "A", "B", "C")

ME: Final[Record] = {"id": "usr_1", "name": "Astrid Lindqvist", "email": "astrid@example.com", "role": "admin"}


def customers() -> list[Record]:
    """The organization numbers are nobody's: a real company's third digit is at least 2."""
    return [
        {
            "id": f"cus_{number:03}",
            "name": f"{_NAMES[number % len(_NAMES)]} {_TRADES[number % len(_TRADES)]} AB",
            "organization_number": f"550000-{1000 + number}",
            "city": _CITIES[number % len(_CITIES)],
            "email": f"faktura{number}@example.com",
        }
        for number in range(1, CUSTOMERS + 1)
    ]


def invoices() -> list[Record]:
    """The invoices that exist at the start."""
    return [
        invoice(number, f"cus_{number * 2:03}", 1250 * number, "paid" if number % 3 else "overdue")
        for number in range(1, _INVOICES + 1)
    ]


def invoice(number: int, customer_id: str, amount: float, status: str = "sent") -> Record:
    """`amount` is in kronor."""
    return {
        "id": f"inv_{number:04}",
        "customer_id": customer_id,
        "amount": amount,
        "currency": "SEK",
        "status": status,
        "due_date": f"2025-{number % 12 + 1:02}-28",
    }


def credit_report(customer: Record) -> Record:
    number = int(customer["organization_number"][-4:])
    return {
        "organization_number": customer["organization_number"],
        "name": customer["name"],
        "score": 40 + number * 7 % 60,
        "rating": _RATINGS[number % len(_RATINGS)],
        "credit_limit": number * 250,
        "currency": "SEK",
        "payment_remarks": number % 3,
    }


def export_lines(rows: int) -> Iterator[str]:
    """A CSV file with `rows` bookings."""
    yield "date;customer;text;amount\r\n"
    for row in range(rows):
        customer = row % CUSTOMERS + 1
        yield f"2025-{row % 12 + 1:02}-{row % 28 + 1:02};cus_{customer:03};Betalning {row + 1};{row * 37 % 9000},00\r\n"
