"""The specification's seccomp profile, read, checked and handed to libseccomp as rules.

OCI runtime specification, config-linux.md, "Seccomp". Error texts are runc's.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.runc import libseccomp as lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from wherry.runc.libseccomp import Library

_EPERM = 1

#: libseccomp's numbers of actions and operators, by the specification's names.
ACTIONS = {
    "SCMP_ACT_KILL": lib.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": lib.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": lib.ACT_KILL_PROCESS,
    "SCMP_ACT_TRAP": lib.ACT_TRAP,
    "SCMP_ACT_ERRNO": lib.ACT_ERRNO,
    "SCMP_ACT_TRACE": lib.ACT_TRACE,
    "SCMP_ACT_ALLOW": lib.ACT_ALLOW,
    "SCMP_ACT_LOG": lib.ACT_LOG,
    "SCMP_ACT_NOTIFY": lib.ACT_NOTIFY,
}
#: These have a number for the caller in their lower half.
_WITH_NUMBER = (lib.ACT_ERRNO, lib.ACT_TRACE)

OPERATORS = {
    "SCMP_CMP_NE": lib.CMP_NE,
    "SCMP_CMP_LT": lib.CMP_LT,
    "SCMP_CMP_LE": lib.CMP_LE,
    "SCMP_CMP_EQ": lib.CMP_EQ,
    "SCMP_CMP_GE": lib.CMP_GE,
    "SCMP_CMP_GT": lib.CMP_GT,
    "SCMP_CMP_MASKED_EQ": lib.CMP_MASKED_EQ,
}

_NAMES = (
    "x86 x86_64 x32 arm aarch64 mips mips64 mips64n32 mipsel mipsel64 mipsel64n32 ppc ppc64 ppc64le s390 s390x parisc "
    "parisc64 riscv64 loongarch64 m68k sh sheb"
)
#: libseccomp's names of the architectures, by the specification's. Not every version of it knows all of them.
ARCHITECTURES = {f"SCMP_ARCH_{name.upper()}": name for name in _NAMES.split()}

#: A system call has no more arguments.
_ARGUMENTS = 6

#: The time to compile grows with the square of the rules, and a program of more could not be loaded: each is an
#: instruction at least (BPF_MAXINSNS). Docker's profile has 450.
_MOST_RULES = 4096


class Rule:
    """An action for one system call with all of the comparisons."""

    __slots__ = ("action", "comparisons", "name")

    def __init__(self, name: bytes, action: int, comparisons: Sequence[tuple[int, int, int, int]]) -> None:
        self.name = name
        self.action = action
        self.comparisons = comparisons


class Profile:
    """A profile in libseccomp's terms, but for the names of architectures and system calls."""

    __slots__ = ("architectures", "default", "flags", "notifies", "rules")

    def __init__(self, default: int, architectures: list[str], flags: list[str], rules: list[Rule]) -> None:
        self.default = default
        #: libseccomp's names.
        self.architectures = architectures
        self.flags = flags
        self.rules = rules
        #: Whether some rule asks a listener.
        self.notifies = any(rule.action == lib.ACT_NOTIFY for rule in rules)


def parse(seccomp: Mapping[str, Any]) -> Profile:
    """Read a `linux.seccomp`. InvalidArgument, naming the field."""
    architectures = list(dict.fromkeys(_architecture(name) for name in _list(seccomp, "architectures", str)))
    default = _action(seccomp, "defaultAction", "defaultErrnoRet")
    rules: list[Rule] = []
    for entry in _list(seccomp, "syscalls", dict):
        names = _list(entry, "names", str)
        action = _action(entry, "action", "errnoRet")
        comparisons = [_comparison(each) for each in _list(entry, "args", dict)]
        # Comparisons of a rule hold together, but those of profiles that compare one argument more than once, written
        # when each was a rule of its own, still are.
        indexes = {index for index, *_ in comparisons}
        alternatives = [comparisons] if len(indexes) == len(comparisons) else [[each] for each in comparisons]
        if len(rules) + len(names) * len(alternatives) > _MOST_RULES:
            raise InvalidArgument(f"linux.seccomp.syscalls: more than {_MOST_RULES} rules")
        for name in names:
            encoded = _system_call(name)
            rules += [Rule(encoded, action, each) for each in alternatives]
    profile = Profile(default, architectures, _list(seccomp, "flags", str), rules)
    _check_listener(profile)
    return profile


def _check_listener(profile: Profile) -> None:
    """Refuse what would stop the process before its listener has got to the one who answers."""
    if profile.default == lib.ACT_NOTIFY:
        raise InvalidArgument("SCMP_ACT_NOTIFY cannot be used as default action")
    if any(rule.action == lib.ACT_NOTIFY and rule.name == b"write" for rule in profile.rules):
        raise InvalidArgument("SCMP_ACT_NOTIFY cannot be used for the write syscall")


def build(library: Library, profile: Profile) -> bytes:
    """Return a profile's BPF program. InvalidArgument for what libseccomp refuses.

    The filter kills on architectures that it is not for; it always is for the native one. System calls that there are
    not are passed over.
    """
    try:
        rules = lib.Rules(library, profile.default)
    except OSError:
        raise InvalidArgument("error initializing seccomp - invalid default action") from None
    with rules:
        for name in profile.architectures:
            try:
                rules.add_architecture(architecture(library, name))
            except OSError as error:
                raise InvalidArgument(f"error adding architecture {name} to seccomp filter: {_reason(error)}") from None
        for rule in profile.rules:
            if rule.action == profile.default:
                continue
            number = library.system_call(rule.name)
            if number is None:
                continue
            try:
                rules.add(rule.action, number, rule.comparisons)
            except OSError as error:
                raise InvalidArgument(
                    f"error adding seccomp filter rule for syscall {rule.name.decode()}: {_reason(error)}"
                ) from None
        return rules.program()


def architecture(library: Library, name: str) -> int:
    """Return libseccomp's number of an architecture. InvalidArgument if this version of it does not know it."""
    number = library.architecture(name)
    if not number:
        version = ".".join(map(str, library.version))
        raise InvalidArgument(f"error validating Seccomp architecture: libseccomp {version} does not know {name}")
    return number


def _reason(error: OSError) -> str:
    return (error.strerror or "").lower()


def _architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise InvalidArgument(f"string {name} is not a valid arch for seccomp")
    return ARCHITECTURES[name]


def _action(document: Mapping[str, Any], name: str, number_name: str) -> int:
    text = document.get(name)
    action = ACTIONS.get(text) if isinstance(text, str) else None
    if action is None:
        raise InvalidArgument(f"string {text or ''} is not a valid action for seccomp")
    if action not in _WITH_NUMBER:
        return action
    number = document.get(number_name)
    return action | (_EPERM if number is None else _number(number, number_name, 0xFFFF))


def _comparison(argument: Mapping[str, Any]) -> tuple[int, int, int, int]:
    text = argument.get("op")
    operator = OPERATORS.get(text) if isinstance(text, str) else None
    if operator is None:
        raise InvalidArgument(f"string {text or ''} is not a valid operator for seccomp")
    index = _number(argument.get("index") or 0, "args.index", 2**32 - 1)
    if index >= _ARGUMENTS:
        raise InvalidArgument(f"syscalls only have up to {_ARGUMENTS} arguments ({index} given)")
    first = _number(argument.get("value") or 0, "args.value", 2**64 - 1)
    second = _number(argument.get("valueTwo") or 0, "args.valueTwo", 2**64 - 1)
    return index, operator, first, second


def _system_call(name: str) -> bytes:
    if not name:
        raise InvalidArgument("empty string is not a valid syscall")
    if "\0" in name:
        raise InvalidArgument(f"linux.seccomp.syscalls.names: {name!r} has a NUL byte")
    return name.encode(errors="replace")


def _number(value: object, name: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidArgument(f"linux.seccomp: {name} {value!r} is not a number from 0 to {most}")
    return value


def _list(document: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise InvalidArgument(f"linux.seccomp: {name} is not a list of {'strings' if kind is str else 'objects'}")
    return value
