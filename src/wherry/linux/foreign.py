"""Foreign functions by the C module beneath `ctypes`, without that package, which takes 2 ms to import.

What there is has the names that it has in `ctypes`. Objects of both go together, since all are the C module's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,
        Array,
        PyDLL,
        Structure,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_uint,
        c_uint64,
        c_ulong,
        c_ushort,
        c_void_p,
        create_string_buffer,
        get_errno,
        memmove,
        sizeof,
    )
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        Array,
        CFuncPtr,
        Structure,
        _memmove_addr,
        _SimpleCData,
        addressof,
        byref,
        dlopen,
        get_errno,
        sizeof,
    )

    # ruff: noqa: N801  # the names of ctypes
    class c_char(_SimpleCData):
        _type_ = "c"

    class c_char_p(_SimpleCData):
        _type_ = "z"

    class c_void_p(_SimpleCData):
        _type_ = "P"

    class c_ushort(_SimpleCData):
        _type_ = "H"

    class c_int(_SimpleCData):
        _type_ = "i"

    class c_uint(_SimpleCData):
        _type_ = "I"

    class c_long(_SimpleCData):
        _type_ = "l"

    class c_ulong(_SimpleCData):
        _type_ = "L"

    class c_uint64(_SimpleCData):
        _type_ = "Q"

    #: On Linux a long is as wide as a pointer.
    c_size_t = c_ulong

    class _Function(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    class _PythonFunction(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI
        _restype_ = c_int

    class _Memmove(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL
        _argtypes_ = (c_void_p, c_void_p, c_size_t)
        _restype_ = c_void_p

    class CDLL:
        """A library, its functions as attributes."""

        _type = _Function

        def __init__(self, name, *, use_errno):
            assert use_errno, "all functions here keep it"
            self._handle = dlopen(name, 0)

        def __getattr__(self, name):
            function = self._type((name, self))
            setattr(self, name, function)
            return function

    class PyDLL(CDLL):
        """The same, keeping the interpreter's lock."""

        _type = _PythonFunction

    memmove = _Memmove(_memmove_addr)

    def create_string_buffer(init, size=None):
        if isinstance(init, int):
            return (c_char * init)()
        buffer = (c_char * (len(init) + 1 if size is None else size))()
        buffer.value = init
        return buffer


__all__ = [
    "CDLL",
    "Array",
    "PyDLL",
    "Structure",
    "addressof",
    "byref",
    "c_char",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_uint64",
    "c_ulong",
    "c_ushort",
    "c_void_p",
    "create_string_buffer",
    "get_errno",
    "memmove",
    "sizeof",
]
