"""Which of an index's manifests are wanted: by platform, by number."""

from __future__ import annotations

from collections.abc import Sequence

from wherry.errors import NotFound
from wherry.oci.descriptor import Descriptor
from wherry.oci.platform import Platform


class Selection:
    """What a client wants of an image for several platforms.

    Without platforms, all. Else those manifests that are for exactly one of them or, where there is none, the one that
    suits it best; and those that do not say what they are for, whose configs tell. At most `limit` of an index, if
    that is not 0.
    """

    def __init__(self, platforms: Sequence[Platform] = (), limit: int = 0) -> None:
        self.platforms = list(platforms)
        self.limit = limit

    def children(self, index: Descriptor, manifests: Sequence[Descriptor]) -> list[Descriptor]:
        """Return an index's manifests that are wanted, in order of preference. NotFound if there are only others."""
        if not self.platforms:
            return list(manifests[: self.limit] if self.limit else manifests)
        found = self.suitable(manifests)
        found += [each for each in manifests if platform_of(each) is None and each not in found]
        if not found:
            others = sorted({str(platform) for each in manifests if (platform := platform_of(each)) is not None})
            others = [each for each in others if not each.startswith("unknown")]
            raise NotFound(
                f"manifest for {', '.join(map(str, self.platforms))} in {index.digest}: "
                f"it is for {', '.join(others) or 'no platform'}"
            )
        return found[: self.limit] if self.limit else found

    def suitable(self, manifests: Sequence[Descriptor]) -> list[Descriptor]:
        """Return, for each platform, the manifests that are said to be for what suits it best."""
        found: list[Descriptor] = []
        for wanted in self.platforms:
            found += [each for each in _suitable(wanted, manifests) if each not in found]
        return found

    def wants(self, platform: Platform | None) -> bool:
        """Tell whether a manifest whose config says this is wanted."""
        if platform is None or not self.platforms:
            return True
        return any(platform in wanted.suits() for wanted in self.platforms)


def platform_of(descriptor: Descriptor) -> Platform | None:
    """Return what an index says of a manifest's platform; None if nothing."""
    return Platform.from_json(descriptor.platform) if descriptor.platform else None


def _suitable(wanted: Platform, manifests: Sequence[Descriptor]) -> list[Descriptor]:
    for platform in wanted.suits():
        found = [each for each in manifests if platform_of(each) == platform]
        if found:
            return found
    return []
