"""The mapping: rows become messages as it says."""

import asyncio

import orjson
import pytest

from segment_async.importing import (
    ImportOptions,
    ImportUsageError,
    dry_run,
    load_mapping,
    parse_mapping,
    run_import,
)

from .support import MAPPING, RecordingSegment, imported, options, orders, rejects_of, write_csv

CSV_COLUMNS = ["id", "kind", "total", "items", "note", "city"]


def mapped(text, row, columns=CSV_COLUMNS):
    return parse_mapping(text).bind(columns)(row)


def test_the_example_of_the_documentation():
    (message,) = mapped(
        """
        type = { column = "kind", values = { buy = "track", signup = "identify" } }
        userId = { column = "id" }
        event = "Order Completed"
        [properties]
        total = { column = "total", as = "number", decimal = "," }
        products = { column = "items", as = "json" }
        source = "import"
        [properties.address]
        city = { column = "city" }
        [integrations]
        All = false
        Mixpanel = true
        """,
        ["0042", "buy", "1,5", '[{"sku":"a"}]', "", "Berlin"],
    )
    assert message == {
        "type": "track",
        "userId": "0042",
        "event": "Order Completed",
        "properties": {
            "total": 1.5,
            "products": [{"sku": "a"}],
            "source": "import",
            "address": {"city": "Berlin"},
        },
        "integrations": {"All": False, "Mixpanel": True},
    }


def test_an_empty_cell_is_absent_and_so_is_what_holds_only_such():
    (message,) = mapped("type='track'\n[properties.address]\ncity = {column='city'}", ["", "", "", "", "", ""])
    assert message == {"type": "track"}


def test_rest_takes_the_unmapped_columns():
    (message,) = mapped(
        "type='track'\nrest='properties'\nuserId={column='id'}\n[properties]\nsum={column='total', as='integer'}",
        ["1", "k", "5", "", "n", "c"],
    )
    assert message["properties"] == {"kind": "k", "note": "n", "city": "c", "sum": 5}


def test_several_messages_of_a_row():
    messages = mapped(
        "userId={column='id'}\n[[message]]\ntype='identify'\ntraits={city={column='city'}}\n"
        "[[message]]\ntype='track'\nevent='Ordered'",
        ["7", "", "", "", "", "Bonn"],
    )
    assert messages == [
        {"userId": "7", "type": "identify", "traits": {"city": "Bonn"}},
        {"userId": "7", "type": "track", "event": "Ordered"},
    ]


def test_columns_of_json_are_paths_and_keep_their_types():
    (message,) = mapped(
        "type='track'\nuserId={column='user.id'}\n[properties]\nflag={column='flag'}\ntext={column='n', as='text'}\n"
        "dotted={column='a.b'}",
        {"user": {"id": 1234567890123456789}, "flag": False, "n": 5, "a.b": "x"},
        columns=None,
    )
    assert message == {
        "type": "track",
        "userId": "1234567890123456789",
        "properties": {"flag": False, "text": "5", "dotted": "x"},
    }


def test_a_value_that_values_do_not_have_is_rejected(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,kind\n1,buy\n2,sell\n")
    mapping = parse_mapping('type={column="kind", values={buy="track"}}\nuserId={column="id"}\nevent="E"')
    report, segment = imported(path, mapping=mapping, destinations="none")
    assert (len(segment.messages), report.counts.reasons) == (1, {"values": 1})


def test_the_digest_changes_with_the_meaning_alone():
    one = parse_mapping("type='track'\nevent='A'")
    assert one.digest == parse_mapping("# a comment\ntype = 'track'\nevent = 'A'").digest
    assert one.digest != parse_mapping("type='track'\nevent='B'").digest


def test_destinations(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    mapping = parse_mapping('type="track"\nuserId={column="id"}\nevent="E"')
    with pytest.raises(ImportUsageError, match="--destinations"):
        imported(path, mapping=mapping)
    found = {}
    for destinations in ("all", "none", "Mixpanel, Amplitude"):
        _, segment = imported(path, mapping=mapping, destinations=destinations, restart=True)
        found[destinations] = segment.messages[0].get("integrations")
    assert found == {
        "all": None,
        "none": {"All": False},
        "Mixpanel, Amplitude": {"All": False, "Mixpanel": True, "Amplitude": True},
    }
    with pytest.raises(ImportUsageError, match="destinations"):
        imported(path, mapping=mapping, destinations="all,Mixpanel")


@pytest.mark.parametrize("form", [str, lambda path: path])
def test_paths_may_be_text(form, tmp_path):
    source = write_csv(tmp_path / "orders.csv", [("u1", "2026-01-02", "3")])
    (tmp_path / "orders.toml").write_text(MAPPING)
    segment = RecordingSegment()
    options = ImportOptions(
        sources=[form(source)],
        write_key="KEY",
        transport=segment,
        mapping=load_mapping(form(tmp_path / "orders.toml")),
        state=form(tmp_path / "state.json"),
        rejects=form(tmp_path / "rejects.jsonl"),
    )
    report = asyncio.run(run_import(options))
    assert (report.counts.delivered, len(segment.messages)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("mapping", "orders.toml", "mapping must be what load_mapping or parse_mapping returned"),
        ("transform", "module:function", "transform must be a function, such as of load_transform"),
        ("max_rejects", 1_000, "max_rejects must be text, such as '2%', not int"),
        ("destinations", ["Mixpanel"], "destinations must be text, such as 'Mixpanel,Amplitude', not list"),
        ("write_key", None, "write_key must be text, such as 'YOUR_WRITE_KEY', not NoneType"),
        ("rate", "500", "rate must be a number, not str"),
        ("limit", 2.5, "limit must be a whole number, not float"),
        ("state", 1, "state must be a path, not int"),
        ("rejects", b"rejects.jsonl", "rejects must be a path, not bytes"),
        ("write_key_file", 1, "write_key_file must be a path, not int"),
        ("timeout", "15", "timeout must be a number of seconds, not str"),
        ("grace", None, "grace must be a number of seconds, not NoneType"),
        ("restart", "no", "restart must be True or False, not str"),
        ("ordered", "false", "ordered must be True or False, not str"),
        ("strict", 0, "strict must be True or False, not int"),
    ],
)
def test_an_option_of_a_wrong_type_is_explained(tmp_path, name, value, text):
    path = write_csv(tmp_path / "orders.csv", orders(1))
    with pytest.raises(ImportUsageError, match=f"^{text}"):
        imported(path, **{name: value} if name != "transform" else {"mapping": None, name: value})


def test_a_dry_run_shows_no_message_in_its_repr(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"type": "track", "userId": "ann@example.com", "event": "Seen"}\n')
    found = dry_run(options(path, mapping=None, destinations="all"))
    assert [message["userId"] for message in found.messages] == ["ann@example.com"]
    assert "ann@example.com" not in repr(found)


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        ("orders.csv", r": \['orders.csv'\]"),
        (None, r", such as \['orders.csv'\], not NoneType"),
        (1, r", such as .*, not int"),
    ],
)
def test_what_is_no_list_of_sources_is_refused(sources, text):
    options = ImportOptions(sources=sources, destinations="none", transport=RecordingSegment())
    with pytest.raises(ImportUsageError, match=f"^sources must be a list{text}$"):
        asyncio.run(run_import(options))


TYPED = "type,userId,event"


def integrated(tmp_path, integrations):
    """A message with these integrations: ready-made, by a transform, by columns of the mapping."""
    message = {"type": "track", "userId": "u", "event": "A", "integrations": integrations}
    ready = tmp_path / "a.jsonl"
    ready.write_bytes(orjson.dumps(message) + b"\n")
    columns = "".join(f'{name} = {{ column = "{name}" }}\n' for name in integrations)
    mapping = parse_mapping(f'type = "track"\nuserId = "u"\nevent = "A"\n[integrations]\nHeap = true\n{columns}')
    mapped = tmp_path / "b.jsonl"
    mapped.write_bytes(orjson.dumps(integrations | {"x": 1}) + b"\n")
    return [
        (ready, {"mapping": None}),
        (ready, {"mapping": None, "transform": lambda row: row}),
        (mapped, {"mapping": mapping}),
    ]


def sent_to(tmp_path, integrations, destinations):
    """What is sent of a message with these integrations, however it was made."""
    found = []
    for path, given in integrated(tmp_path, integrations):
        _, segment = imported(path, destinations=destinations, restart=True, **given)
        found.append(segment.messages[0].get("integrations"))
    assert found.count(found[0]) == 3, found
    return found[0]


@pytest.mark.parametrize(
    ("own", "destinations", "expected"),
    [
        ({}, "all", None),
        ({}, "none", {"All": False}),
        ({"All": True}, "all", None),
        ({"All": None, "Mixpanel": None}, "all", None),
        ({"All": None, "Mixpanel": None}, "Mixpanel", {"All": False, "Mixpanel": True}),
        ({"Mixpanel": False}, "all", {"Mixpanel": False}),
        ({"Mixpanel": {"jsonKeys": ["a"]}}, "all", {"Mixpanel": {"jsonKeys": ["a"]}}),
        ({"All": False, "Braze": True}, "all", {"All": False, "Braze": True}),
        ({"Mixpanel": False}, "none", {"All": False}),
        ({"All": True, "Mixpanel": True}, "none", {"All": False}),
        ({"Mixpanel": {"jsonKeys": ["a"]}}, "none", {"All": False}),
        ({"Mixpanel": False}, "Mixpanel,Braze", {"All": False, "Braze": True}),
        ({"Mixpanel": True}, "Braze", {"All": False, "Braze": True}),
        ({"Mixpanel": {"jsonKeys": ["a"]}}, "Mixpanel", {"All": False, "Mixpanel": {"jsonKeys": ["a"]}}),
        ({"All": False}, "Mixpanel", {"All": False}),
        ({"All": False, "Braze": True}, "Mixpanel", {"All": False}),
        ({"All": False, "Mixpanel": True}, "Mixpanel,Braze", {"All": False, "Mixpanel": True}),
    ],
)
def test_a_destination_gets_what_both_the_choice_and_the_record_allow(tmp_path, own, destinations, expected):
    assert sent_to(tmp_path, own, destinations) == expected


@pytest.mark.parametrize(
    ("own", "destinations", "expected"),
    [
        *(({"Mixpanel": off}, "all", {"Mixpanel": False}) for off in ("false", "0", "no", " False ", 0)),
        *(({"Mixpanel": on}, "all", {"Mixpanel": True}) for on in ("true", "1", "yes", "TRUE", 1)),
        *(({"Mixpanel": off}, "Mixpanel,Braze", {"All": False, "Braze": True}) for off in ("false", "0", "no", 0)),
        *(({"Mixpanel": on}, "Mixpanel", {"All": False, "Mixpanel": True}) for on in ("true", "1", "yes", 1)),
        ({"Mixpanel": "true"}, "none", {"All": False}),
        ({"All": "false"}, "all", {"All": False}),
        ({"All": "true"}, "all", None),
        ({"All": 0, "Braze": "yes"}, "Mixpanel,Braze", {"All": False, "Braze": True}),
        # An object is a destination's options, and switches it on; an empty one, too.
        ({"Mixpanel": {}}, "all", {"Mixpanel": {}}),
        ({"Mixpanel": {}}, "Mixpanel", {"All": False, "Mixpanel": {}}),
        ({"Mixpanel": {}}, "none", {"All": False}),
        ({"Mixpanel": {"on": "no", "n": 0}}, "Mixpanel", {"All": False, "Mixpanel": {"on": "no", "n": 0}}),
        ({"All": {}}, "Mixpanel", {"All": False, "Mixpanel": True}),
    ],
)
def test_what_says_on_or_off_is_read_as_that(tmp_path, own, destinations, expected):
    assert sent_to(tmp_path, own, destinations) == expected


@pytest.mark.parametrize("destinations", ["all", "none", "Mixpanel"])
@pytest.mark.parametrize("choice", ["maybe", "", "null", 2, 0.5, [], ["jsonKeys"]])
def test_what_says_neither_on_nor_off_is_rejected(tmp_path, choice, destinations):
    for path, given in integrated(tmp_path, {"Mixpanel": choice}):
        report, segment = imported(path, destinations=destinations, restart=True, **given)
        (reject,) = rejects_of(report)
        assert (reject["rule"], reject["path"]) == ("boolean", "integrations.Mixpanel")
        assert reject["text"] == "Must be true, false, yes, no, 1, 0 or an object of options."
        assert segment.messages == []


@pytest.mark.parametrize("whole", [True, False, 0, 1, 0.0, "false", ["Mixpanel"]])
def test_integrations_that_are_no_object_never_choose_all(tmp_path, whole):
    path = tmp_path / "a.jsonl"
    path.write_bytes(orjson.dumps({"type": "track", "userId": "u", "event": "A", "integrations": whole}) + b"\n")
    report, segment = imported(path, mapping=None, destinations="all")
    assert (report.counts.reasons, segment.messages) == ({"field-type": 1}, [])


@pytest.mark.parametrize("destinations", [None, "all"])
def test_a_cell_chooses_a_destination(tmp_path, destinations):
    cells = ["false", "0", "No", "true", "1", "YES", "", "maybe"]
    path = write_csv(tmp_path / "a.csv", [(f"u{number}", cell) for number, cell in enumerate(cells)], "user,mp")
    mapping = parse_mapping(
        'type = "track"\nuserId = { column = "user" }\nevent = "A"\n[integrations]\nMixpanel = { column = "mp" }'
    )
    report, segment = imported(path, mapping=mapping, destinations=destinations)
    found = {message["userId"]: message.get("integrations") for message in segment.messages}
    off, on = {"Mixpanel": False}, {"Mixpanel": True}
    assert found == {"u0": off, "u1": off, "u2": off, "u3": on, "u4": on, "u5": on, "u6": None}
    (reject,) = rejects_of(report)
    assert (reject["rule"], reject["path"], reject["row"]["mp"]) == ("boolean", "integrations.Mixpanel", "maybe")


def choices_of(text, cell):
    (message,) = mapped(f"type = 'track'\n[integrations]\nAll = false\n{text}", ["", "", "", "", cell, ""])
    return message["integrations"]


@pytest.mark.parametrize(
    ("text", "cell", "expected"),
    [
        ("Mixpanel = { column = 'note', as = 'json' }", "false", False),
        ("Mixpanel = { column = 'note', as = 'json' }", '{"jsonKeys": []}', {"jsonKeys": []}),
        ("Mixpanel = { column = 'note', as = 'text' }", "false", False),
        ("Mixpanel = { column = 'note', as = 'boolean' }", "no", False),
        ("Mixpanel = { column = 'note', values = { ja = true, nein = false } }", "nein", False),
        ("Mixpanel = {}", "", {}),
        # Its name in the mapping says that it is on, whatever its options are.
        ("Mixpanel = { session_id = { column = 'note' } }", "", {}),
        ("Mixpanel = { session_id = { column = 'note' } }", "5", {"session_id": "5"}),
        ("Mixpanel = { a = 1, session_id = { column = 'note' } }", "", {"a": 1}),
    ],
)
def test_a_mapping_chooses_a_destination(text, cell, expected):
    assert choices_of(text, cell) == {"All": False, "Mixpanel": expected}


@pytest.mark.parametrize(
    "text",
    [
        "'Customer.io' = 'false'",
        "'Customer.io' = 0",
        "'Customer.io' = []",
        "'Customer.io' = 2024-05-01",
        "'Customer.io' = { column = 'note', values = { ja = 'true' } }",
    ],
)
def test_a_choice_of_the_mapping_is_on_or_off(text):
    match = r"^orders.toml, line 3: .*integrations.Customer.io must be true, false or a table of options$"
    with pytest.raises(ImportUsageError, match=match):
        parse_mapping(f"type = 'track'\n[integrations]\n{text}", "orders.toml")


def test_a_table_does_not_choose_for_another(tmp_path):
    """What a table says for every record is replaced by the choice for the import, whatever another table does."""
    path = write_csv(tmp_path / "a.csv", [("u", "false")], "user,all")
    mapping = parse_mapping(
        'userId = { column = "user" }\nevent = "A"\n'
        '[[message]]\ntype = "track"\nintegrations = { All = { column = "all" } }\n'
        '[[message]]\ntype = "identify"\nintegrations = { All = false }\n'
    )
    _, segment = imported(path, mapping=mapping, destinations="Mixpanel")
    found = {message["type"]: message["integrations"] for message in segment.messages}
    assert found == {"track": {"All": False}, "identify": {"All": False, "Mixpanel": True}}


def test_a_table_without_integrations_needs_a_choice(tmp_path):
    """Its messages would go to all destinations."""
    path = write_csv(tmp_path / "a.csv", [("u",)], "user")
    text = (
        'userId = { column = "user" }\nevent = "A"\n'
        '[[message]]\ntype = "track"\nintegrations = { All = false }\n[[message]]\ntype = "identify"\n'
    )
    segment = RecordingSegment()
    with pytest.raises(ImportUsageError, match=r"--destinations .* \[integrations\] for each message of the mapping"):
        imported(path, segment=segment, mapping=parse_mapping(text))
    assert segment.batches == []
    _, segment = imported(path, mapping=parse_mapping(text + "integrations = { All = false }\n"))
    assert [message["integrations"] for message in segment.messages] == [{"All": False}] * 2
    shared = parse_mapping(text.replace("[[message]]", "integrations = { All = false }\n[[message]]", 1))
    assert imported(path, mapping=shared, restart=True)[0].exit_code == 0


@pytest.mark.parametrize("none", [[], "", None])
def test_empty_integrations_of_another_kind_choose_nothing(tmp_path, none):
    """As a map of Parquet without entries."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(orjson.dumps({"type": "track", "userId": "u", "event": "A", "integrations": none}) + b"\n")
    _, segment = imported(path, mapping=None, destinations="Mixpanel")
    assert segment.messages[0]["integrations"] == {"All": False, "Mixpanel": True}


def test_integrations_that_are_no_object_are_rejected(tmp_path):
    path = write_csv(
        tmp_path / "a.csv", [("track", "u", "A", "none"), ("track", "u", "B", "")], TYPED + ",integrations"
    )
    report, segment = imported(path, mapping=None, destinations="all")
    assert (report.counts.rejected, report.counts.reasons["field-type"]) == (1, 1)
    assert [message.get("integrations") for message in segment.messages] == [None]


def test_a_column_of_ready_made_csv_chooses_a_destination(tmp_path):
    rows = [("track", "u", "A", "false"), ("track", "u", "B", "")]
    path = write_csv(tmp_path / "a.csv", rows, TYPED + ",integrations.Mixpanel")
    given = {"mapping": None, "destinations": "Mixpanel"}
    _, segment = imported(path, **given)
    assert [message["integrations"] for message in segment.messages] == [
        {"All": False},
        {"All": False, "Mixpanel": True},
    ]
    found = dry_run(options(path, **given))
    assert (found.own_integrations, found.as_dict()["own_integrations"]) == (1, 1)
    assert dry_run(options(path, mapping=None, destinations="all")).own_integrations == 1


@pytest.mark.parametrize(("rest", "unmapped"), [("", ["total", "note"]), ("rest = 'properties'", [])])
def test_a_dry_run_calls_no_column_unmapped_that_rest_takes(tmp_path, rest, unmapped):
    path = tmp_path / "orders.csv"
    path.write_text("id,total,note\nu1,3,gift\n")
    mapping = parse_mapping(f"type = 'track'\nevent = 'Ordered'\n{rest}\nuserId = {{ column = 'id' }}")
    assert dry_run(options(path, mapping=mapping, destinations="all")).unmapped == unmapped
