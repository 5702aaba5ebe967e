"""Personal data in what is said to people and to logs: addresses, and rows that an error quotes. Tables keep what came."""

from __future__ import annotations

import re

__all__ = ["without_personal_data"]

_MASK = "********"
_MEMBERS = r"customer_id|name|first_name|last_name|email|phone|address"

_QUOTED = (
    # An e-mail address; what stands after :// is a place
    re.compile(r"()(?<![\w.+:/@-])[\w.+'-]+@[\w-]+(?:\.[\w-]+)+"),
    # A member of JSON, of a Python dict, of a Spark Row
    re.compile(rf"""((["'])(?:{_MEMBERS})\2\s*:\s*)(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[\w.+-]+)"""),
    re.compile(rf"""(\b(?:{_MEMBERS})=)(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""),
    # Postgres: the row that breaks a rule, the line that COPY did not take
    re.compile(r"(Failing row contains )\(.*\)"),
    re.compile(r"(Key \([^)]*\)=)\(.*?\)(?= |$)", re.MULTILINE),
    re.compile(r"(\bCOPY \w+, line \d+[^:\n]*: ).*"),
    re.compile(r"(invalid input syntax for type [\w ]+: ).*"),
    # Spark and Delta: the value that is no number, the row that breaks a CHECK
    re.compile(r"(\bThe value )'.*?'(?= of the type)", re.DOTALL),
    re.compile(r"^(\s+- [\w.`]+ : ).*", re.MULTILINE),
)


def without_personal_data(text: str) -> str:
    """The text with masks in the place of e-mail addresses and of values that errors are known to quote."""
    for pattern in _QUOTED:
        text = pattern.sub(rf"\1{_MASK}", text)
    return text
