"""The loader of generated protobuf modules: a descriptor pool of our own, over protobuf's C core.

Generated modules (``*_pb2.py``, see ``tools/generate_api.py``) call :func:`load` with their serialized descriptor.
Going to the C core directly keeps most of protobuf's Python out of a client's start, and
:func:`import_only_the_core` the rest.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from google.protobuf.descriptor import Descriptor, FileDescriptor
    from google.protobuf.message import Message


def _core() -> tuple[Any, Callable[[Descriptor], type[Message]]]:
    try:
        from google._upb import _message
        from google.protobuf.message import Message

        def make_class(descriptor: Descriptor) -> type[Message]:
            namespace = {"DESCRIPTOR": descriptor, "__module__": descriptor.file.package}
            made: Any = _message.MessageMeta(descriptor.name, (Message,), namespace)
            return made  # type: ignore[no-any-return]

        return _message.DescriptorPool(), make_class
    except (ImportError, AttributeError):
        # protobuf without its C core (PyPy, a platform without wheels): the public way, slower to import.
        from google.protobuf import descriptor_pool, message_factory

        return descriptor_pool.DescriptorPool(), message_factory.GetMessageClass


_pool, _make_class = _core()
_classes: dict[str, type[Message]] = {}


def message_class(full_name: str) -> type[Message]:
    """Return the class of a top-level message of a loaded module by its full name; KeyError if there is none."""
    return _classes[full_name]


def import_only_the_core() -> None:
    """Keep protobuf's mixins for well-known types, and the 12 ms of their imports, out of this process.

    For wherry's own programs only, before the first generated module: any other protobuf code of the process would find
    ``google.protobuf.Timestamp`` and its like without their conveniences.
    """
    name = "google.protobuf.internal.well_known_types"
    if name not in sys.modules:
        # The C core asks this module for one name when it makes its first class, and never again.
        stand_in = type(sys)(name)
        stand_in.WKTBASES = {}  # type: ignore[attr-defined]
        sys.modules[name] = stand_in


def load(module_name: str, serialized_file: bytes) -> FileDescriptor:
    """Add a serialized FileDescriptorProto to wherry's pool and fill the module with its messages and enum values.

    The modules of the files it imports must have been loaded before. Returns the file's descriptor, also set as the
    module's ``DESCRIPTOR``.
    """
    file: FileDescriptor = _pool.AddSerializedFile(serialized_file)
    if file is None:  # the pure-Python pool returns nothing
        from google.protobuf import descriptor_pb2

        file = _pool.FindFileByName(descriptor_pb2.FileDescriptorProto.FromString(serialized_file).name)
    names = vars(sys.modules[module_name])
    names["DESCRIPTOR"] = file
    for name, descriptor in file.message_types_by_name.items():
        names[name] = _classes[descriptor.full_name] = _make_class(descriptor)
    for name, enum in file.enum_types_by_name.items():
        names[name] = dict(enum.values_by_name)
        names.update((value.name, value.number) for value in enum.values)
    return file
