"""keyring.py against the kernel."""

from __future__ import annotations

import pytest

from tests.linux.child import in_child
from wherry.linux import keyring


def test_a_new_session_keyring() -> None:
    def child() -> None:
        try:
            serial = keyring.join_session_keyring("_ses.wherry-test")
        except OSError as error:
            assert error.errno == 38  # no keyrings in this kernel
            return
        assert serial > 0
        before = keys()[serial]
        keyring.set_permissions(serial, keyring.USER_SEARCH)
        after = keys()[serial]
        assert before[1] == after[1]
        assert "_ses.wherry-test" in after[1]
        assert int(after[0], 16) == int(before[0], 16) | keyring.USER_SEARCH
        with pytest.raises(OSError, match=r"not available|No such|Invalid"):
            keyring.set_permissions(1, keyring.USER_SEARCH)

    in_child(child)


def keys() -> dict[int, tuple[str, str]]:
    """Permissions and descriptions by serial number, of the keys that this process sees: proc_keys(5)."""
    with open("/proc/keys") as file:
        lines = [line.split() for line in file]
    return {int(fields[0], 16): (fields[4], " ".join(fields[8:])) for fields in lines}
