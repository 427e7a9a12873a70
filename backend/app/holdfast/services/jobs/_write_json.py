"""JSON lines with results: only the members that change are written anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import is_dict, is_list
from holdfast.services.jobs import _source_json
from holdfast.services.jobs._write_values import Unwritable, as_json
from holdfast.services.jobs.rows import Row

if TYPE_CHECKING:
    from holdfast.services.jobs._results import Results
    from holdfast.services.jobs.sources import JsonLinesSource


class JsonRewriter:
    """Give each line of a file as it is to be, from as it is."""

    def __init__(self, source: JsonLinesSource, codec: str, results: Results) -> None:
        self._source = source
        self._codec = codec
        self._results = results

    def line(self, number: int, raw: str) -> str:
        """Return a line with what its row's result says."""
        row = self._source._entry(number, raw) if raw.strip() else None
        if not isinstance(row, Row):
            return raw
        result = self._results.take(row.key)
        try:
            return raw if result is None else self._edited(row, raw, result)
        except Unwritable as error:
            error.row = row.key
            raise

    def _edited(self, row: Row, raw: str, result: dict[str, Any]) -> str:
        changes = {name: value for name, value in result.items() if not same(row.values, name, value)}
        if not changes:
            return raw
        if self._source.key is not None and self._source._identify({**row.values, **changes}, 0) != row.key:
            raise Unwritable("would get another key", "write to members that the key does not depend on")
        return self._spliced(raw, changes)

    def _spliced(self, raw: str, changes: dict[str, Any]) -> str:
        spans = _source_json.spans(raw)
        new = [
            self._member(spans, name, value) for name, value in changes.items() if name not in spans.values
        ]
        lead = spans.between if spans.values else ""
        edits = [(spans.end, spans.end, lead + spans.between.join(new))] if new else []
        known = [name for name in changes if name in spans.values]
        edits += [(*spans.values[name], self._text(changes[name])) for name in known]
        for start, end, text in sorted(edits, reverse=True):
            raw = raw[:start] + text + raw[end:]
        return raw

    def _member(self, spans: _source_json.Spans, name: str, value: Any) -> str:
        return f"{self._text(name)}{spans.colon}{self._text(value)}"

    def _text(self, value: Any) -> str:
        text = as_json(value)
        try:
            text.encode(self._codec)
        except UnicodeEncodeError:
            # JSON has a form in ASCII for every character.
            return "".join(c if c.isascii() else _escaped(c) for c in text)
        return text


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def same(values: Any, name: str, value: Any) -> bool:
    """Return whether a member says already what a result says."""
    if name not in values:
        return False
    try:
        there = _source_json.parse(f'{{"it": {as_json(value)}}}')["it"]
    except ValueError:
        return False
    return bool(_typed(there) == _typed(values[name]))


def _typed(value: Any) -> Any:
    if is_dict(value):
        return {name: _typed(item) for name, item in value.items()}
    if is_list(value):
        return [_typed(item) for item in value]
    return type(value), str(value)
