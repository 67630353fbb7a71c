"""Generated messages: fresh, in a pool of their own, and cheap to import."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    str(path.relative_to(ROOT / "src")).removesuffix(".py").replace("/", ".")
    for path in (ROOT / "src").rglob("*_pb2.py")
)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_generated_code_is_fresh() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_api.py", "--check"], check=True)


@pytest.mark.parametrize("module", MODULES)
def test_every_message_of_a_module_round_trips(module: str) -> None:
    names = vars(importlib.import_module(module))
    for descriptor in names["DESCRIPTOR"].message_types_by_name.values():
        message = names[descriptor.name]()
        assert names[descriptor.name].FromString(message.SerializeToString()) == message
        assert descriptor.full_name == message.DESCRIPTOR.full_name


def test_other_generated_code_for_the_same_names_can_live_beside_ours() -> None:
    """A user's program may hold protoc's own output for containerd's packages in protobuf's default pool."""
    run_python(
        """
import wherry.api.types.types_pb2 as ours
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
file = descriptor_pb2.FileDescriptorProto(name="theirs.proto", package="containerd.types", syntax="proto3")
file.message_type.add(name="Mount").field.add(name="kind", number=1, type=9, label=1)
pool = descriptor_pool.Default()
pool.Add(file)
theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("containerd.types.Mount"))
assert theirs(kind="bind").SerializeToString() == ours.Mount(type="bind").SerializeToString()
any_pb2.Any().Pack(any_pb2.Any())
"""
    )


def test_messages_import_little_of_protobuf_and_of_the_standard_library() -> None:
    loaded = run_python(
        """
import sys
before = set(sys.modules)
import wherry.protobuf
wherry.protobuf.import_only_the_core()
import wherry.api.services.tasks.v1.tasks_pb2
print(*sorted(set(sys.modules) - before))
"""
    ).split()
    assert not {"re", "typing", "datetime", "google.protobuf.descriptor_pool", "asyncio", "enum"} & set(loaded)


def test_without_the_c_core_messages_still_load() -> None:
    run_python(
        """
import sys
sys.modules["google._upb"] = None
import os
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
import wherry.api.services.tasks.v1.tasks_pb2 as tasks
from wherry.protobuf import message_class
request = tasks.KillRequest(container_id="a", signal=9)
assert message_class("containerd.services.tasks.v1.KillRequest").FromString(request.SerializeToString()) == request
"""
    )
