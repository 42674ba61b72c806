"""Runs the questions of docs/fleet.md on exported tables, in DuckDB or in Apache Spark.

fleet.py duckdb|spark QUESTIONS TABLES ANSWERS

Writes the answers to ANSWERS as JSON. Spark compares its own with those that are there, by DuckDB.
"""

import decimal
import json
import os
import re
import sys

engine, questions, tables, answers = sys.argv[1:]
NAMES = ("events", "holds", "waits")
text = open(questions, encoding="utf-8").read()
queries = re.findall(r"^## (.+?)\n.*?^```sql\n(.*?)^```", text, re.M | re.S)
assert len(queries) >= 5, f"{questions} has only {len(queries)} questions"


def plain(value):
    """The same for both engines."""
    if isinstance(value, (float, decimal.Decimal)):
        return round(float(value), 6)
    if hasattr(value, "isoformat"):
        # With or without its zone, which is UTC.
        return value.isoformat().replace("+00:00", "")
    return value


def duckdb():
    import duckdb

    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for name in NAMES:
        connection.execute(
            f"create view {name} as select * from read_parquet('{tables}/{name}/*/*/*.parquet', hive_partitioning = true)"
        )
    for column in ("comm", "kind", "provenance", "site", "mm"):
        found = connection.execute(
            "select distinct encodings::varchar from parquet_metadata(?) where path_in_schema = ?",
            [f"{tables}/events/*/*/*.parquet", column],
        ).fetchall()
        assert all("DICTIONARY" in encodings for (encodings,) in found), f"{column} has {found}"
    return lambda query: connection.execute(query).fetchall()


def spark():
    from pyspark.sql import SparkSession

    os.environ["TZ"] = "UTC"
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "1")
        .getOrCreate()
    )
    for name in NAMES:
        session.read.parquet(f"{tables}/{name}").createOrReplaceTempView(name)
    return lambda query: [tuple(row) for row in session.sql(query).collect()]


ask = {"duckdb": duckdb, "spark": spark}[engine]()
found = {}
for title, query in [*queries, ("counts", "select count(*) from events"), ("holds", "select count(*) from holds")]:
    rows = [[plain(value) for value in row] for row in ask(query)]
    assert rows, f"{title}: no answer"
    found[title] = rows

if engine == "spark":
    expected = json.load(open(answers))
    for title, rows in found.items():
        assert rows == expected[title], f"{title}\nSpark:  {rows}\nDuckDB: {expected[title]}"
else:
    json.dump(found, open(answers, "w"))
