"""The schema of the wire: current, complete, and true of what is really sent."""

import json
from pathlib import Path

import msgspec
import pytest

from hil import schema, wire

PAGE = Path(__file__).resolve().parent.parent / "docs" / "wire.schema.json"
MESSAGES = {*wire.Incoming.__args__, *wire.Outgoing.__args__}


@pytest.fixture
def shown():
    return json.loads(PAGE.read_text(encoding="utf-8"))


def test_schema_on_disk_is_what_the_code_gives(shown):
    assert shown == schema.wire_schema(), "run: python -m hil.schema > docs/wire.schema.json"
    assert shown["protocol"] == wire.PROTOCOL
    assert str(wire.PROTOCOL) in shown["title"]


@pytest.mark.parametrize("struct", sorted(MESSAGES, key=lambda s: s.__name__), ids=lambda s: s.__name__)
def test_each_message_is_there_with_its_fields_and_those_that_must_be(shown, struct):
    kind = schema.title_of(struct)
    found = shown["$defs"][kind]
    fields = msgspec.structs.fields(struct)
    assert found["title"] == kind
    assert found["properties"]["kind"] == {"enum": [kind]}
    assert set(found["properties"]) == {"kind", *(f.name for f in fields)}
    assert set(found["required"]) == {"kind", *(f.name for f in fields if f.required)}
    ways = [way for way in ("incoming", "outgoing") if {"$ref": f"#/$defs/{kind}"} in shown[way]["oneOf"]]
    assert ways == [w for w, m in (("incoming", wire.Incoming), ("outgoing", wire.Outgoing)) if struct in m.__args__]


def test_every_reference_leads_somewhere_and_bytes_are_bytes(shown):
    text = json.dumps(shown)
    named = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert named <= set(shown["$defs"])
    assert shown["$defs"]["array"]["properties"]["data"] == {"type": "string", "contentEncoding": "binary"}
    assert "base64" not in text
