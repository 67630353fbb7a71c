"""Platforms: what an image is made for, and which of several suits. OCI image specification, image-index.md, and the
rules by which containerd chooses."""

from __future__ import annotations

import os as system

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Other names of architectures, to Go's names and, where the name tells it, the variant.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}
_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasi", "js"))


class Platform:
    """An operating system, an architecture and its variant, in Go's names; the usual variant is ""."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, os: str, architecture: str, variant: str = "") -> None:
        self.os = "darwin" if os.lower() == "macos" else os.lower()
        architecture = architecture.lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = variant.lower() or implied
        if architecture in ("arm", "arm64") and variant.isdigit():
            variant = "v" + variant
        if architecture == "arm":
            variant = variant or "v7"
        elif (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
            variant = ""
        self.architecture = architecture
        self.variant = variant

    @classmethod
    def host(cls) -> Platform:
        """Return this machine's."""
        return cls("linux", system.uname().machine)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform of "OS/ARCH[/VARIANT]"; a missing half is this machine's. InvalidArgument for others."""
        parts = text.split("/")
        if not all(part and part.replace("_", "").replace("-", "").replace(".", "").isalnum() for part in parts):
            raise InvalidArgument(f'platform "{text}": OS/ARCHITECTURE[/VARIANT] is expected')
        if len(parts) == 1:
            host = cls.host()
            if parts[0].lower() in _SYSTEMS:
                return cls(parts[0], host.architecture, host.variant)
            return cls(host.os, parts[0])
        if len(parts) > 3:
            raise InvalidArgument(f'platform "{text}": OS/ARCHITECTURE[/VARIANT] is expected')
        return cls(*parts)

    @classmethod
    def of(cls, platform: Platform | str | None) -> Platform:
        """Return what is meant by a platform, its text, or nothing: this machine's. InvalidArgument for other texts."""
        if not platform:
            return cls.host()
        return cls.parse(platform) if isinstance(platform, str) else platform

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Platform | None:
        """Return the platform that an index's descriptor or an image's config names; None if it names none."""
        os, architecture, variant = (value.get(key) for key in ("os", "architecture", "variant"))
        if not isinstance(os, str) or not isinstance(architecture, str) or not (os and architecture):
            return None
        return cls(os, architecture, variant if isinstance(variant, str) else "")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Platform) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def suits(self) -> list[Platform]:
        """Return the platforms whose programs run on this one, the best first."""
        suitable = [self]
        number = self.variant[1:]
        if self.architecture == "amd64":
            if number.isdigit():
                suitable += [Platform(self.os, "amd64", f"v{each}") for each in range(int(number) - 1, 0, -1)]
            suitable.append(Platform(self.os, "386"))
        elif self.architecture == "arm" and number.isdigit():
            suitable += [Platform(self.os, "arm", f"v{each}") for each in range(int(number) - 1, 4, -1)]
        elif self.architecture == "arm64":
            suitable += Platform(self.os, "arm", self.variant or "v8").suits()
        return suitable
