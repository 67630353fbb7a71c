from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Error, InvalidArgument, NotFound
from wherry.oci.user import home_directory, resolve

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
        ("9" * 5000, InvalidArgument),
        ("0:" + "9" * 5000, InvalidArgument),
    ],
)
def test_who_nobody_is(text: str, kind: type[Error]) -> None:
    with pytest.raises(kind):
        resolve(text, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("passwd", "uid", "home"),
    [
        (PASSWD, 0, "/root"),
        (PASSWD, 1000, "/"),
        (PASSWD, 4711, "/"),
        (b"", 0, "/"),
        (b"a:x:5:5::/first:\nb:x:5:5::/second:\n", 5, "/first"),
        (b"a:x:5:5:::\n", 5, "/"),
        (b"a:x:5:5\n", 5, "/"),
        (b"#a:x:5:5::/no:\n\nx\na:x:5:5::/h\xc3\xb6me", 5, "/h\xf6me"),
        (b"a:x:-5:5::/no:\n", -5, "/"),
        (b"a:x:5:5::/n\0ul:\n", 5, "/"),
        (b"a:x:5:5::/\xff:\n", 5, "/\udcff"),
        (b"a:x:%s:5::/no:\na:x:5:5::/yes:" % (b"9" * 5000), 5, "/yes"),
    ],
)
def test_homes(passwd: bytes, uid: int, home: str) -> None:
    assert home_directory(passwd, uid) == home


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=2**32))
def test_any_file_says_where_home_is(passwd: bytes, uid: int) -> None:
    assert home_directory(passwd, uid)


@given(st.text(max_size=10), st.binary(max_size=200), st.binary(max_size=200))
def test_any_files_give_somebody_or_a_clear_error(text: str, passwd: bytes, group: bytes) -> None:
    try:
        resolve(text, passwd, group)
    except (NotFound, InvalidArgument):
        return
