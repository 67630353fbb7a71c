#!/usr/bin/env python3
"""Generate ``*_pb2.py`` and ``*_pb2.pyi`` beside every ``.proto`` file below ``src/wherry``.

``--check`` writes nothing and exits 1 when a committed file is not what would be generated.

The generated modules differ from protoc's own in three ways, each for a reason:

* they live in a descriptor pool of wherry's own, so a program that also holds other code generated for containerd's
  packages, or googleapis-common-protos, can import wherry;
* ``google.protobuf``'s well-known types become ``wherry.wellknown``'s, with the same fields: on the wire nothing
  changes, and they are plain messages whether or not the process also loads google.protobuf's;
* they need only protobuf's C core: see wherry/protobuf.py.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
WELL_KNOWN = "wherry/api/wellknown.proto"
_IMPORT = re.compile(r'^import "google/protobuf/\w+\.proto";\n', re.MULTILINE)
_TYPE = re.compile(r"\bgoogle\.protobuf\.(Timestamp|Any|Empty|FieldMask)\b")


def with_own_well_known_types(proto: str) -> str:
    """Return the text of a .proto file with google.protobuf's well-known types replaced by wherry's."""
    if not _IMPORT.search(proto):
        return proto
    first = True

    def replace(_match: re.Match[str]) -> str:
        nonlocal first
        line = f'import "{WELL_KNOWN}";\n' if first else ""
        first = False
        return line

    return _TYPE.sub(r".wherry.wellknown.\1", _IMPORT.sub(replace, proto))


def module_of(proto: str) -> str:
    return proto.removesuffix(".proto").replace("/", ".") + "_pb2"


def python_source(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Return the Python module for one file of a descriptor set."""
    lines = [f'"""Generated from {file.name} by tools/generate_api.py: do not edit."""', ""]
    for dependency in sorted(file.dependency):
        package, _, name = module_of(dependency).rpartition(".")
        lines.append(f"import {package}.{name}")
    lines += ["from wherry.protobuf import load", "", f"load(__name__, {file.SerializeToString()!r})"]
    return "\n".join(lines) + "\n"


def generate() -> dict[Path, str]:
    """Return every generated file's path and text."""
    protos = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as work:
        for proto in protos:
            copy = Path(work, proto)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(with_own_well_known_types((SOURCE / proto).read_text()))
        set_path = Path(work, "set.binpb")
        status = protoc.main(["protoc", f"-I{work}", f"--descriptor_set_out={set_path}", f"--pyi_out={work}", *protos])
        if status:
            raise SystemExit(status)
        files = descriptor_pb2.FileDescriptorSet.FromString(set_path.read_bytes())
        generated: dict[Path, str] = {}
        for file in files.file:
            stem = SOURCE / (file.name.removesuffix(".proto") + "_pb2")
            generated[stem.with_suffix(".py")] = python_source(file)
            stub = Path(work, file.name.removesuffix(".proto") + "_pb2.pyi").read_text()
            generated[stem.with_suffix(".pyi")] = "# mypy: ignore-errors\n" + stub
        return generated


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a committed file is stale")
    stale = 0
    options = parser.parse_args()
    for path, text in generate().items():
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if options.check:
            print(f"stale: {path.relative_to(ROOT)} (run tools/generate_api.py)", file=sys.stderr)
        else:
            path.write_text(text)
            print(path.relative_to(ROOT))
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
