from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Error, InvalidArgument, NotFound
from wherry.oci.user import resolve

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nguest:x:1000:100:g:/:/bin/sh\nbroken\n1:x:5:5::/:\n"
GROUP = b"root:x:0:\nusers:x:100:\nextra:x:2000:guest,other\nwheel:x:10:root,guest\nnonsense::\n"


@pytest.mark.parametrize(
    ("text", "uid", "gid", "additional"),
    [
        ("", 0, 0, [0, 10]),
        ("guest", 1000, 100, [100, 10, 2000]),
        ("1000", 1000, 100, [100, 10, 2000]),
        ("guest:wheel", 1000, 10, [10, 2000]),
        ("4711", 4711, 0, []),
        ("4711:12", 4711, 12, [12]),
    ],
)
def test_who_a_text_is(text: str, uid: int, gid: int, additional: list[int]) -> None:
    user = resolve(text, PASSWD, GROUP)
    assert (user.uid, user.gid, user.additional_gids) == (uid, gid, additional)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nobody", NotFound),
        ("guest:none", NotFound),
        (":", InvalidArgument),
        ("a:b:c", InvalidArgument),
        ("4294967295", InvalidArgument),
    ],
)
def test_who_nobody_is(text: str, kind: type[Error]) -> None:
    with pytest.raises(kind):
        resolve(text, PASSWD, GROUP)


@given(st.text(max_size=10), st.binary(max_size=200), st.binary(max_size=200))
def test_any_files_give_somebody_or_a_clear_error(text: str, passwd: bytes, group: bytes) -> None:
    try:
        resolve(text, passwd, group)
    except (NotFound, InvalidArgument):
        return
