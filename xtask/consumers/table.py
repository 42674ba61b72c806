"""Reads a table with Python's csv and with DuckDB, and compares it with the lines of JSON of the same recording.

table.py CSV LINES
"""

import csv
import json
import sys

import duckdb

lines = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8", newline="\n")]
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
assert len(rows) == len(lines), f"{len(rows)} rows, {len(lines)} lines"
assert list(rows[0]) == list(lines[0]), "other columns, or in another order"

TEXT = {"comm", "site", "stack", "user_stack", "mm", "vma"}
for number, (row, line) in enumerate(zip(rows, lines), 2):
    for name, value in line.items():
        cell = row[name]
        assert not cell or cell[0] not in "=+-@\t\r", f"row {number}: {name} would run as a formula: {cell!r}"
        if name in ("mm", "vma"):
            assert cell == ("" if value is None else "0x" + value), f"row {number}: {name}"
        elif name in TEXT:
            continue
        elif isinstance(value, bool):
            assert cell == str(value).lower(), f"row {number}: {name}"
        else:
            assert cell == ("" if value is None else str(value)), f"row {number}: {name} is {cell!r}, not {value!r}"
assert any(row["comm"].startswith("'=") for row in rows), "the sample has a name that is a formula"

found = duckdb.connect().execute(
    "select count(*), count(distinct kind) from read_csv(?, header = true)", [sys.argv[1]]
)
count, kinds = found.fetchone()
assert count == len(lines)
assert kinds == len({line["kind"] for line in lines})
