"""Writes the files of this folder with pyarrow: what `records/tests/parquet.rs` reads as the rows in the .jsonl beside each.

    python3 make.py

The .jsonl files are kept by hand: what a row of JSON says of the same values.
"""

import datetime
import pathlib
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).parent


def write(name, table, **options):
    pq.write_table(table, FOLDER / f"{name}.parquet", **options)


def column(kind, *values):
    return pa.array(values, kind)


ints = {str(kind): column(kind, 1, None, -3) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())}
uints = {
    str(kind): column(kind, 2**bits - 1, None, 3)
    for bits, kind in ((8, pa.uint8()), (16, pa.uint16()), (32, pa.uint32()), (64, pa.uint64()))
}
types = pa.table(
    {
        **ints,
        **uints,
        "f16": column(pa.float16(), 0.5, None, -2.25),
        "f32": column(pa.float32(), 0.1, None, float("nan")),
        "f64": column(pa.float64(), 0.1, None, float("inf")),
        "bool": column(pa.bool_(), True, None, False),
        "null": pa.nulls(3),
        "text": column(pa.string(), 'a"\n', None, "é"),
        "large_text": column(pa.large_string(), "a", None, "b"),
        "text_view": column(pa.string_view(), "a", None, "b" * 40),
        "bytes": column(pa.binary(), b"caf\xc3\xa9", None, b"a\xff"),
        "fixed": column(pa.binary(4), b"abcd", None, b"\x00\xff\x01\x02"),
        "dictionary": column(pa.string(), "a", None, "a").dictionary_encode(),
        "date": column(pa.date32(), datetime.date(2024, 1, 31), None, datetime.date(1, 1, 1)),
        "time_ms": column(pa.time32("ms"), 1, None, 86_399_999),
        "time_us": column(pa.time64("us"), 1, None, 86_399_000_000),
        "time_ns": column(pa.time64("ns"), 1, None, 86_399_000_000_001),
        "moment_s": column(pa.timestamp("s"), 1, None, -5),
        "moment_ms": column(pa.timestamp("ms"), 1001, None, -1),
        "moment_us": column(pa.timestamp("us"), 1_000_000, None, -1),
        "moment_ns": column(pa.timestamp("ns"), 1_700_000_000_000_000_001, None, -1),
        "utc": column(pa.timestamp("us", "UTC"), 1_500_000, None, -1),
        "berlin": column(pa.timestamp("us", "Europe/Berlin"), 1_000_000, None, -1),
        "decimal_9": column(pa.decimal128(9, 2), Decimal("1.50"), None, Decimal("-0.05")),
        "decimal_18": column(pa.decimal128(18, 2), Decimal("1.50"), None, Decimal("-123456789012.25")),
        "decimal_38": column(pa.decimal128(38, 2), Decimal("1234567890123456789.01"), None, Decimal("-0.05")),
        "decimal_76": column(pa.decimal256(76, 2), Decimal("1" * 40 + ".01"), None, Decimal("-0.05")),
    }
)
write("types", types)
write("types_v2", types, data_page_version="2.0", use_dictionary=False, compression="zstd")
write("types_bare", types, store_schema=False, compression="gzip")
write("types_decimal_integers", types.select(["decimal_9", "decimal_18"]), store_decimal_as_integer=True)
write("types_int96", types.select(["moment_us", "moment_ns"]), use_deprecated_int96_timestamps=True)

inner = pa.struct([("c", pa.string()), ("d", pa.list_(pa.int8()))])
message = pa.struct([("role", pa.string()), ("content", pa.string())])
deep = pa.struct([("x", pa.struct([("y", pa.struct([("z", pa.int32())]))]))])
nested = pa.table(
    {
        "list": column(pa.list_(pa.int64()), [1, None], None, []),
        "large_list": column(pa.large_list(pa.string()), ["a"], None, []),
        "fixed_list": column(pa.list_(pa.int32(), 2), [1, 2], None, [3, None]),
        "lists": column(pa.list_(pa.list_(pa.int32())), [[1], [], None, [2, None]], None, [None]),
        "object": column(
            pa.struct([("a", pa.int32()), ("b", inner)]),
            {"a": 1, "b": None},
            None,
            {"a": None, "b": {"c": "x", "d": [1]}},
        ),
        "messages": column(
            pa.list_(message),
            [{"role": "user", "content": "hi"}, None, {"role": None, "content": "x"}],
            [],
            None,
        ),
        "map": column(pa.map_(pa.string(), pa.int32()), [("k", 1), ("l", None)], None, []),
        "number_map": column(pa.map_(pa.int64(), pa.list_(pa.int32())), [(7, [1, 2])], None, [(8, None), (9, [])]),
        "bool_map": column(pa.map_(pa.bool_(), pa.string()), [(True, "x")], None, [(False, None)]),
        "dictionaries": column(pa.list_(pa.dictionary(pa.int32(), pa.string())), ["a", "b", "a"], None, []),
        "nulls": column(pa.list_(pa.null()), [], None, [None]),
        "deep": column(deep, {"x": {"y": {"z": None}}}, {"x": None}, {"x": {"y": None}}),
        "maps": column(
            pa.list_(pa.map_(pa.string(), pa.list_(pa.int32()))), [[("a", [1])], None, []], None, []
        ),
    }
)
write("nested", nested)
write("nested_v2", nested, data_page_version="2.0", use_dictionary=False, compression="lz4")

required = pa.schema(
    [
        pa.field("a", pa.int32(), nullable=False),
        pa.field("l", pa.list_(pa.field("item", pa.string(), nullable=False)), nullable=False),
        pa.field("s", pa.struct([pa.field("x", pa.int32(), nullable=False)]), nullable=False),
    ]
)
rows = {"a": [1, 2, 3], "l": [["x"], [], ["y", "z"]], "s": [{"x": 1}, {"x": 2}, {"x": 3}]}
write("required", pa.table(rows, schema=required))

count = range(200)
encodings = {
    "int": (pa.array(count, pa.int32()), "DELTA_BINARY_PACKED"),
    "long": (pa.array((3 * n for n in count), pa.int64()), "BYTE_STREAM_SPLIT"),
    "float": (pa.array((n / 4 for n in count), pa.float32()), "BYTE_STREAM_SPLIT"),
    "prefixed": (pa.array(f"prefix{n}" for n in count), "DELTA_BYTE_ARRAY"),
    "text": (pa.array(f"t{n * n}" for n in count), "DELTA_LENGTH_BYTE_ARRAY"),
    "fixed": (pa.array((b"%04d" % n for n in count), pa.binary(4)), "BYTE_STREAM_SPLIT"),
    "even": (pa.array(n % 2 == 0 for n in count), "RLE"),
}
write(
    "encodings",
    pa.table({name: values for name, (values, _) in encodings.items()}),
    column_encoding={name: encoding for name, (_, encoding) in encodings.items()},
    use_dictionary=False,
    version="2.6",
    row_group_size=90,
    data_page_size=64,
    write_page_checksum=True,
)

prompts = {
    "instruction": column(pa.large_string(), "a", "b"),
    "prompt_id": column(pa.string_view(), "x", "y"),
    "prompt_ids": column(pa.large_list(pa.int64()), [5, 6], None),
    "good": column(pa.bool_(), None, True),
    "time": column(pa.timestamp("s"), 0, 1),
}
write("prompts", pa.table(prompts))

durations = {
    "duration_s": column(pa.duration("s"), 90, None, -1),
    "duration_ns": column(pa.duration("ns"), 90, None, 10**9),
    "date_64": column(pa.date64(), 0, None, 86_400_000),
    "offset": column(pa.timestamp("us", "+01:00"), 1_000_000, None, -1),
    "nested": column(pa.list_(pa.struct([("d", pa.duration("ms"))])), [{"d": 1500}], None, []),
}
write("arrow_types", pa.table(durations))
