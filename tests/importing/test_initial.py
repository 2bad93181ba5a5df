"""A first mapping: what it guesses of a file's header and first rows."""

import pytest

from segment_async.importing import initial_mapping

from .support import write_csv


def mapping_of(tmp_path, *moments):
    file = write_csv(tmp_path / "orders.csv", [(f"u{index}", at) for index, at in enumerate(moments)], "user,created")
    return initial_mapping(str(file))


@pytest.mark.parametrize(
    ("moments", "line"),
    [
        (("2024-05-01T10:00:00Z",) * 3, 'timestamp = { column = "created" }\n'),
        (
            ("2024-05-01",) * 3,
            'timestamp = { column = "created" }  # guess: times without a zone are UTC; else add zone\n',
        ),
        (
            ("2024-05-01T10:00:00Z", "soon", "2024-05-02T10:00:00Z"),
            'timestamp = { column = "created" }  # guess: 1 of 3 rows have no such time\n',
        ),
        (
            ("21.11.2024 10:30", "yesterday", "1.2.2024 09:00"),
            'format = "%d.%m.%Y %H:%M", zone = "UTC" }  # guess: day before month; set the zone; 1 of 3 rows have no',
        ),
        (
            ("01/02/2024", "12/31/2024", "11/30/2024"),
            'format = "%m/%d/%Y", zone = "UTC" }  # guess: month before day; set the zone\n',
        ),
        (
            ("01/02/2024", "03/04/2024"),
            'format = "%d/%m/%Y", zone = "UTC" }  # guess: day before month; set the zone\n',
        ),
        (("soon", "yesterday", "2024-05-01"), 'timestamp = { column = "created" }  # not recognised: add format'),
    ],
)
def test_the_form_of_most_times_is_guessed(tmp_path, moments, line):
    assert line in mapping_of(tmp_path, *moments)


def test_an_object_or_a_list_is_not_taken_for_an_id_or_an_event(tmp_path):
    path = tmp_path / "orders.jsonl"
    path.write_text('{"customer": {"id": "u1"}, "account-id": "u1", "action": ["a"]}\n')
    text = initial_mapping(str(path))
    assert 'userId = { column = "account-id" }  # guess: by its name\n' in text
    assert 'event = "Row Imported"' in text
    path.write_text('{"customer": {"id": "u1"}, "number": "1"}\n')
    assert 'userId = { column = "number" }  # guess: no column is named like an id' in initial_mapping(str(path))
