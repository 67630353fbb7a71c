"""What a run said, freed of what differs between any two runs, as one flat table of fields."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Fields of /proc/self/status that count processes or descriptors of the past.
_PAST = {"FDSize", "State", "Ngid"}
_PROCESS_IDS = {"Pid", "Tgid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid"}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of a document by dotted path; a list of scalars is a leaf."""
    leaves: dict[str, Any] = {}
    if isinstance(value, dict):
        pairs = [(str(name), below) for name, below in value.items()]
    elif isinstance(value, list) and any(isinstance(below, dict | list) for below in value):
        pairs = [(str(index), below) for index, below in enumerate(value)]
    else:
        return {path: value}
    if not pairs:
        return {path: value}
    for name, below in pairs:
        leaves |= flat(below, f"{path}.{name}" if path else name)
    return leaves


def container(output: str, known: Mapping[int, str]) -> dict[str, Any]:
    """Return the probe's report in an output, normalised. `known` names namespaces by their inodes."""
    begin = output.find('{"descriptors"')
    if begin < 0:
        return {"output": output} if output else {}
    document, length = json.JSONDecoder().raw_decode(output[begin:])
    rest = (output[:begin] + output[begin + length :]).strip()
    _normalise(document, known)
    return {"probe": document, **({"output": rest} if rest else {})}


def hooks(path: Path, known: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return what the hooks wrote to a file, one after another."""
    seen = []
    for line in path.read_text().splitlines() if path.exists() else ():
        document = json.loads(line)
        _normalise(document, known)
        document["input"] = state(document["input"].encode("latin-1").decode())  # the probe has a character for a byte
        seen.append(document)
    return seen


def state(text: str) -> Any:
    """Return a state document without what is another's in each run; text that is none stays as it is."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, dict):
        if document.get("pid"):
            document["pid"] = _process_id(str(document["pid"]))
        if "created" in document:
            document["created"] = re.sub(r"\d+", "0", re.sub(r"\.\d+", "", document["created"]))
    return document


def errors(text: str) -> str:
    """Return a runtime's error output without time, and without its own name."""
    text = re.sub(r'time="[^"]*" ', "", text)
    text = re.sub(r'"time":"[^"]*"', '"time":""', text)
    text = re.sub(r"\b(wherry-runc|crun)\b", "runc", text)
    text = re.sub(r"/proc/self/fd/\d+", "/proc/self/fd/N", text)
    text = re.sub(r"nsexec(-\d)?\[\d+\]", r"nsexec\1[N]", text)
    return re.sub(r"\b(pid|process) \d+", r"\1 N", text).strip()


def tree(top: Path) -> dict[str, str]:
    """Describe every file below a directory: type, mode, owner, and the size or target."""
    found = {}
    for directory, _, names in os.walk(top):
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            status = os.lstat(path)
            kind = f"{status.st_mode:06o} {status.st_uid}:{status.st_gid}"
            if os.path.islink(path):
                kind += f" -> {os.readlink(path)}"
            elif os.path.isfile(path):
                kind += f" {status.st_size}"
            found[os.path.relpath(path, top)] = kind
        for name in os.listdir(directory):
            if os.path.islink(link := os.path.join(directory, name)):
                found[os.path.relpath(link, top)] = f"-> {os.readlink(link)}"
    return found


def _normalise(document: dict[str, Any], known: Mapping[int, str]) -> None:
    document["namespaces"] = {kind: known.get(id, "new") for kind, id in document["namespaces"].items()}
    for descriptor in document["descriptors"].values():
        descriptor["target"] = re.sub(r"\[\d+\]", "", descriptor.get("target", ""))
    document["process"]["pid"] = _process_id(str(document["process"]["pid"]))
    document.get("top", {}).get("/hooks", {}).pop("size", None)  # of what hooks wrote
    status = document.get("status", {})
    for name in _PAST:
        status.pop(name, None)
    for name in _PROCESS_IDS & set(status):
        status[name] = " ".join(_process_id(word) for word in status[name].split())
    if "mountinfo" in (files := document.get("files", {})):
        content = files.pop("mountinfo")
        if "text" in content:
            lines = [line.split() for line in content["text"].splitlines()]
            document["mounts"] = _mounts(lines)
            document["mount order"] = [line[4] for line in lines]
        else:
            document["mounts"] = content


def _process_id(number: str) -> str:
    """Only the ids of init (1) and of what is outside the namespace (0) are the same in each run."""
    return number if number in ("0", "1") else "other"


def _mounts(lines: list[list[str]]) -> dict[str, str]:
    """Describe mounts by mount point (proc_pid_mountinfo(5)): no ids, device numbers, or numbers of peer groups.

    Whether a peer group is one of this process's is told: what is mounted there is mounted on the host.
    """
    with open("/proc/self/mountinfo") as file:
        outer = {word[7:] for line in file for word in line.split(" - ")[0].split() if word.startswith("shared:")}
    points = {line[0]: line[4] for line in lines}
    shared = {tag for line in lines for tag in line[6 : line.index("-")] if tag.startswith("shared:")}
    own = {tag for tag in shared if tag[7:] not in outer}
    groups = {tag: f"shared:{rank}" for rank, tag in enumerate(sorted(own, key=lambda tag: int(tag[7:])))}
    described: dict[str, str] = {}
    for line in lines:
        dash = line.index("-")
        tags = []
        for tag in line[6:dash]:
            kind, _, number = tag.partition(":")
            group = groups.get(f"shared:{number}", "the host" if number in outer else "another")
            tags.append(group if group.startswith(kind) else f"{kind} of {group}" if number else kind)
        name = line[4]
        while name in described:
            name += " (above)"
        root = re.sub(r"^(/.*)?(/user|/ns)?:\[\d+\]$", r"\1\2", line[3])
        parent = points.get(line[1], "-")
        described[name] = " ".join([f"on {parent}", root, line[5], *tags, *line[dash:]])
    return described
