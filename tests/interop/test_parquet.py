"""Parquet: tests/data/rows holds files as pyarrow (which the hub's data sets are written with) and their rows as JSON.

    python test_parquet.py            reads the files with pyarrow and compares with the rows
    python test_parquet.py --write    writes both"""
import datetime, json, os, sys
from decimal import Decimal
import pyarrow as pa
import pyarrow.parquet as pq

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "rows")

ROWS = [
    {"text": "plain", "large": "large é", "category": "a", "choices": ["A", "B"], "nested": {"text": ["x", "y"], "label": ["A", "B"]}, "small": -128, "wide": 2**63 - 1,
     "unsigned": 2**64 - 1, "single": 0.1, "double": 1e300, "flag": True, "list_of_structs": [{"a": 1, "b": "one"}, {"a": None, "b": None}], "matrix": [[1, 2], [], [3]],
     "bytes": b"utf-8 \xc3\xa9", "day": datetime.date(2024, 5, 17), "time": datetime.datetime(2024, 5, 17, 1, 2, 3, 456789), "money": Decimal("-12.30"), "map": [("k", 1), ("l", None)]},
    {"text": "", "large": None, "category": "b", "choices": [], "nested": {"text": [], "label": None}, "small": 127, "wide": -(2**63), "unsigned": 0, "single": None, "double": -0.5,
     "flag": False, "list_of_structs": [], "matrix": None, "bytes": None, "day": None, "time": None, "money": None, "map": []},
    {"text": "\U0001f600 \u0000 \"quoted\"\n", "large": "x" * 300, "category": "a", "choices": [None, ""], "nested": None, "small": 0, "wide": 0, "unsigned": 1, "single": 2.5,
     "double": float("nan"), "flag": None, "list_of_structs": None, "matrix": [None, [None]], "bytes": b"\xff\x00", "day": datetime.date(1969, 12, 31), "time": datetime.datetime(1969, 12, 31), "money": Decimal("0.01"), "map": None},
]

SCHEMA = pa.schema([
    pa.field("text", pa.string(), nullable=False), ("large", pa.large_string()), ("category", pa.dictionary(pa.int32(), pa.string())), ("choices", pa.list_(pa.string())),
    ("nested", pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])), ("small", pa.int8()), ("wide", pa.int64()), ("unsigned", pa.uint64()),
    ("single", pa.float32()), ("double", pa.float64()), ("flag", pa.bool_()), ("list_of_structs", pa.list_(pa.struct([("a", pa.int16()), ("b", pa.string())]))),
    ("matrix", pa.large_list(pa.list_(pa.int32()))), ("bytes", pa.binary()), ("day", pa.date32()), ("time", pa.timestamp("us")), ("money", pa.decimal128(9, 2)), ("map", pa.map_(pa.string(), pa.int32())),
])

WRITERS = {
    "snappy": dict(compression="snappy"),
    "zstd-v2": dict(compression="zstd", data_page_version="2.0", use_dictionary=False),
    "gzip-delta": dict(compression="gzip", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "large": "DELTA_LENGTH_BYTE_ARRAY", "wide": "DELTA_BINARY_PACKED", "double": "BYTE_STREAM_SPLIT"}),
    "brotli": dict(compression="brotli", row_group_size=1, version="1.0"),
}


def as_json(name, value):
    """What the crate makes of a value: dates and times as stored, decimals as strings, bytes as text where they are."""
    if value is None or value != value:
        return None
    if isinstance(value, datetime.datetime):
        return int((value - datetime.datetime(1970, 1, 1)) / datetime.timedelta(microseconds=1))
    if isinstance(value, datetime.date):
        return (value - datetime.date(1970, 1, 1)).days
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return list(value)
    if name == "map":
        return {key: as_json("", item) for key, item in value}
    return value


def expected():
    rows = [{name: as_json(name, value) for name, value in row.items()} for row in ROWS * 2]
    for row in rows:
        if row["single"] is not None:
            row["single"] = pa.scalar(row["single"], pa.float32()).as_py()
    return rows


def write():
    os.makedirs(DATA, exist_ok=True)
    table = pa.Table.from_pylist(ROWS * 2, SCHEMA)
    for name, options in WRITERS.items():
        options = {"row_group_size": 4, **options}
        pq.write_table(table, os.path.join(DATA, f"{name}.parquet"), **options)
    with open(os.path.join(DATA, "rows.jsonl"), "w", encoding="utf-8") as out:
        for row in expected():
            out.write(json.dumps(row, ensure_ascii=True) + "\n")


def check():
    with open(os.path.join(DATA, "rows.jsonl"), encoding="utf-8") as lines:
        stored = [json.loads(line) for line in lines]
    assert stored == expected(), "rows.jsonl holds other rows"
    for name in WRITERS:
        table = pq.read_table(os.path.join(DATA, f"{name}.parquet")).to_pylist()
        got = [{key: as_json(key, value) for key, value in row.items()} for row in table]
        assert got == stored, f"{name}.parquet: pyarrow reads other rows"
    print("parquet: pyarrow reads the stored rows")


if __name__ == "__main__":
    write() if "--write" in sys.argv else check()
