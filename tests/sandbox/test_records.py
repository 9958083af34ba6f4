"""The invented data of the sandbox: complete, the same each time, and nobody's."""

from datetime import date

from krebit_proxy.sandbox.records import CUSTOMERS, credit_report, customers, export_lines, invoice, invoices


def test_no_customer_has_the_number_of_a_company_or_a_person() -> None:
    numbers = [customer["organization_number"] for customer in customers()]

    assert len(set(numbers)) == CUSTOMERS
    # Of a company's number the third digit is at least 2; in a person's it begins the month of the birth.
    assert {number[2:4] for number in numbers} == {"00"}


def test_each_invoice_belongs_to_a_customer_and_is_due_on_a_day() -> None:
    known = {customer["id"] for customer in customers()}

    for number in invoices():
        assert number["customer_id"] in known
        assert date.fromisoformat(number["due_date"]).year == 2025
    assert invoice(99, "cus_001", 12.5)["status"] == "sent"


def test_everything_is_the_same_at_each_start() -> None:
    assert customers() == customers()
    assert invoices() == invoices()
    assert [credit_report(customer) for customer in customers()] == [credit_report(each) for each in customers()]


def test_an_export_has_a_header_and_as_many_rows_as_asked_for() -> None:
    lines = list(export_lines(3))

    assert len(lines) == 4
    assert {line.count(";") for line in lines} == {3}
    assert all(line.endswith("\r\n") for line in lines)
