"""Names and TXT records: what may be announced, and what is made of anything."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from echokernel import InvalidArgument
from echokernel_mdns import names

printable = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Cn")), max_size=40)
keys = st.text(st.sampled_from([chr(code) for code in range(0x20, 0x7F) if chr(code) != "="]), min_size=1, max_size=9)


@given(st.lists(st.tuples(keys, printable), max_size=6, unique_by=lambda pair: pair[0].casefold()))
def test_what_is_written_is_read(pairs: list[tuple[str, str]]) -> None:
    assert names.decode_txt(names.encode_txt(pairs)) == (tuple(pairs), True)


@given(st.binary(max_size=600))
@example(b"\xff" * 300)
@example(b"\x00")
@example(b"\x05a=\x1b[2")
def test_anything_can_be_read(text: bytes) -> None:
    pairs, _ = names.decode_txt(text)
    assert len(pairs) <= names.MAX_PAIRS
    for key, value in pairs:
        assert names.harmless(key) == key
        assert names.harmless(value) == value
        value.encode("utf-8")  # no half characters


def test_rules_of_reading() -> None:
    """RFC 6763, sections 6.4 and 6.5."""
    read = names.decode_txt(b"\x03A=1\x03a=2\x04flag\x02=x\x03u=\xff\x00")
    assert read == ((("A", "1"), ("flag", ""), ("u", "\ufffd")), False)
    assert names.decode_txt(b"\x00") == ((), True)
    assert names.decode_txt(b"\x09abc=d") == ((), False), "it says nine bytes and has five"
    many = b"".join(b"\x05%03d=x" % number for number in range(100))
    assert len(names.decode_txt(many)[0]) == names.MAX_PAIRS


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a=b", "1")], "property 'a=b': a key is printable ASCII without '='"),
        ([("", "1")], "property ''"),
        ([("ä", "1")], "property 'ä'"),
        ([("a", "1"), ("A", "2")], "there twice"),
        ([("a", "x" * 254)], "256 bytes with its key, and a TXT record's string has at most 255"),
        ([("a", "x\x1b[2J")], "cannot be seen"),
        ([(f"k{number}", "x" * 200) for number in range(7)], "7 properties: 1428 bytes together, wanted at most 1300"),
    ],
)
def test_what_cannot_be_announced(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.encode_txt(pairs)
    assert message in str(caught.value)


def test_the_longest_string_fits() -> None:
    assert names.decode_txt(names.encode_txt([("a", "x" * 253)])) == ((("a", "x" * 253),), True)
    fingerprint = "sha256:" + "A" * 43
    assert len(f"fp={fingerprint}") < names.MAX_STRING


@given(st.text(max_size=100), st.text("0123456789abcdef", min_size=1, max_size=16))
def test_a_name_with_its_suffix_is_a_label(name: str, suffix: str) -> None:
    label = names.label_with(name.encode("utf-8", "ignore").decode(), f"-{suffix}")
    assert len(label.encode("utf-8")) <= names.MAX_LABEL
    assert label.endswith(f"-{suffix}")
    assert "." not in label


@given(st.text(max_size=80))
def test_a_label_is_taken_or_refused(text: str) -> None:
    with suppress(InvalidArgument):
        label = names.check_label(text, "name")
        assert 0 < len(label.encode("utf-8")) <= names.MAX_LABEL
        assert names.harmless(label) == label


def test_labels_are_counted_in_bytes() -> None:
    assert names.check_label("é" * 31, "name")
    with pytest.raises(InvalidArgument, match="80 bytes as UTF-8, and a name in the DNS has at most 63; shorten it"):
        names.check_label("é" * 40, "name")
    assert names.check_label("e\u0301", "name") == "é", "composed, so that both ways of writing are one name"
    for wrong in ("", "  ", "a\nb", "a\u202eb", "a\x9bb"):
        with pytest.raises(InvalidArgument):
            names.check_label(wrong, "name")
    assert names.check_label("👩‍🚀 کتاب‌ها", "name"), "joiners are part of writing"
