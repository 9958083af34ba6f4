"""What the sandbox counts, and what it tells."""

from krebit_proxy.sandbox.journal import Journal


def test_everything_is_counted_and_only_sentences_are_told() -> None:
    told: list[str] = []
    journal = Journal(told.append)
    journal.note("refreshes", "A token was renewed.")
    journal.note("refreshes")

    assert (journal.counters["refreshes"], told) == (2, ["A token was renewed."])


def test_nobody_needs_to_listen() -> None:
    journal = Journal()
    journal.note("refreshes", "A token was renewed.")

    assert journal.counters == {"refreshes": 1}
