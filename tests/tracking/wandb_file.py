"""What W&B wrote offline: its records, from the log format of LevelDB that it keeps them in."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7  # bytes: of a block, and of crc32, length and kind before every piece


def pieces(data: bytes) -> Iterator[bytes]:
    """Whole records; one may go on over blocks (kind 1: whole, 2: first, 3: middle, 4: last)."""
    at, record = 7, b""  # the file begins with ":W&B", a magic number and a version
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        record += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            yield record
            record = b""


def read(path: Path) -> dict[str, Any]:
    """run, config, history (a list of rows), summary, artifacts (type by name), metrics (definitions)."""
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "artifacts": {}, "metrics": []}
    for piece in pieces(path.read_bytes()):
        record = Record.FromString(piece)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["history"].append(row)
        elif kind == "summary":
            found["summary"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "artifact":
            found["artifacts"][record.artifact.name] = record.artifact.type
        elif kind == "metric":
            found["metrics"].append(record.metric)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found["artifacts"][record.request.log_artifact.artifact.name] = record.request.log_artifact.artifact.type
    return found
