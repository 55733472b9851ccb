"""The one reader of JSON: what a text states twice, or not at all, is refused with its place."""

from __future__ import annotations

import json

import pytest

from vfio_migration.model import SpecError, Trace, load
from vfio_migration.model.json_text import JsonError, parse
from vfio_migration.runtime import Engine, NullDevice, Recorder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "line 1, column 7: NaN is not a number that JSON has"),
        ('{"a":\n [Infinity]}', "line 2, column 3: Infinity is not a number that JSON has"),
        ('{"a": -Infinity}', "line 1, column 7: -Infinity is not a number that JSON has"),
        ('{"a": 1e999}', "line 1, column 7: 1e999 is too large a number"),
        ('{"a": 1,\n "a": 2}', "line 2, column 2: the key 'a' occurs twice"),
        ('{"b": {"a": 1, "\\u0061": 2}}', "line 1, column 16: the key 'a' occurs twice"),
        ('[{"a": 1}, {"a": [{}, {"c": 1, "c": 1}]}]', "line 1, column 32: the key 'c'"),
        ('{"a": ":", "b,": "{", "b,": 0}', "line 1, column 23: the key 'b,' occurs twice"),
        ("9" * 5000, "has a number that is too long to read"),
        ("[" * 100_000, "is nested too deeply"),
        ("{", "line 1, column 2: is not valid JSON"),
        (b"\xff{}", "byte 0: is not valid JSON: it is not UTF-8"),
    ],
)
def test_a_text_that_cannot_be_taken_at_its_word_is_refused_with_its_place(text, message):
    with pytest.raises(JsonError) as raised:
        parse(text)
    assert str(raised.value).startswith(message)
    if isinstance(text, str):
        with pytest.raises(JsonError) as raised:
            parse(text.encode())
        assert str(raised.value).startswith(message)


def test_what_json_has_is_read_as_the_standard_library_reads_it():
    text = '{"a": [1, -2.5e3, true, null, "\\u00e9:{}"], "b": {"a": {}}, "": 0}'
    assert parse(text) == parse(text.encode()) == json.loads(text)


def test_a_trace_in_which_a_key_occurs_twice_is_refused():
    recorder = Recorder()
    Engine(load(), "STOP_COPY", NullDevice(), observers=[recorder]).set_state("STOP")
    text = recorder.trace("stopped").to_json()
    twice = text.replace('"title":', '"title": "another",\n "title":', 1)
    assert Trace.from_json(text)
    with pytest.raises(SpecError, match=r"line \d+, column 2: the key 'title' occurs twice"):
        Trace.from_json(twice)
