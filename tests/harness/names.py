"""Names that nobody else on the machine has, remembered so that what bears them can be looked for afterwards."""

from __future__ import annotations

import os
import secrets

#: Part of every name, for whoever runs tests in order to look at what they leave.
MARK = "WHERRY_TEST_MARK"


def unique(prefix: str) -> str:
    """Return the prefix with eight random characters: valid as namespace, container id and label value."""
    return prefix + os.environ.get(MARK, "") + secrets.token_hex(4)


class Names:
    """The namespaces and container ids that one test gave out."""

    def __init__(self) -> None:
        self.namespaces: list[str] = []
        self.ids: list[str] = []

    def namespace(self, prefix: str = "t") -> str:
        self.namespaces.append(unique(prefix))
        return self.namespaces[-1]

    def id(self, prefix: str = "c") -> str:
        self.ids.append(unique(prefix))
        return self.ids[-1]
