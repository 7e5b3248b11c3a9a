"""Reads the offline files of W&B: records in the log format of LevelDB."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7  # bytes: of a block, and of crc32, length and kind before every part


def pieces(data: bytes) -> Iterator[bytes]:
    """The records; one may span blocks (kind 1: complete, 2: first part, 3: middle part, 4: last part)."""
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
    content: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "artifacts": {}, "metrics": []}
    for piece in pieces(path.read_bytes()):
        record = Record.FromString(piece)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            content["run"] = record.run
            content["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            content["history"].append(row)
        elif kind == "summary":
            content["summary"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "artifact":
            content["artifacts"][record.artifact.name] = record.artifact.type
        elif kind == "metric":
            content["metrics"].append(record.metric)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            content["artifacts"][record.request.log_artifact.artifact.name] = record.request.log_artifact.artifact.type
    return content
