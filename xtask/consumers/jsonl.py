"""Checks lines of JSON against the published schema, and their counts against `tracer stats --json`.

jsonl.py SCHEMA LINES STATS
"""

import collections
import json
import sys

import jsonschema

schema = json.load(open(sys.argv[1]))
stats = json.load(open(sys.argv[3]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)

kinds = collections.Counter()
last = 0
for number, line in enumerate(open(sys.argv[2], encoding="utf-8", newline="\n"), 1):
    event = json.loads(line)
    for error in validator.iter_errors(event):
        sys.exit(f"line {number}: {error.message}")
    assert event["ts_ns"] >= last, f"line {number} is before the one before it"
    last = event["ts_ns"]
    kinds[event["kind"]] += 1

expected = {kind: count for kind, count in stats["events"]["by_kind"].items() if count}
assert dict(kinds) == expected, f"{dict(kinds)} is not {expected}"
# What is wrong has to be found: a schema that takes everything proves nothing.
assert not validator.is_valid(event | {"ts_ns": -1})
assert not validator.is_valid({key: value for key, value in event.items() if key != "vma"})
