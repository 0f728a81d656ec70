"""Masks: nothing of a masked value is left, neither in its place nor in an error message."""

import hashlib
import hmac
import json
import traceback
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.codec.temporal import Moment
from operators.contract.sections import MaskingSection
from operators.contract.table import TableSection
from operators.errors import ContractError, RecordError, RowvecError
from operators.rendering.masks import Masker

KEY = "0123456789abcdef-key"
SECRET = "ann@example.com"
EMAIL = r"[\w.]+@[\w.]+"
SLOW = r"(a|aa)+$"
LONG = "a" * 80 + "b"  # would never end on SLOW


def masker(mask: Any, name: str = "docs", **section: Any) -> Masker:
    table = TableSection.model_validate(
        {
            "topic": f"app.public.{name}",
            "collection": "docs",
            "key": ["id"],
            "text": "{body}",
            "masks": {"who": mask},
        }
    )
    return Masker(table, MaskingSection.model_validate({"hmac_key": KEY, **section}))


def masked(mask: Any, value: Any) -> Any:
    return masker(mask).value("who", value)


def refusal(made: Masker, value: Any) -> RowvecError:
    with pytest.raises(RecordError) as caught:
        made.value("who", value)
    assert caught.value.hint
    assert "'who'" in caught.value.subject
    return caught.value


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.decimals()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


class TestWhole:
    def test_the_masked_columns_are_told_and_no_other_is_masked(self) -> None:
        made = masker("drop")
        assert made.columns == {"who"}
        with pytest.raises(KeyError):
            made.value("body", "x")

    @pytest.mark.parametrize("mask", ["drop", "hmac", {"redact": EMAIL}])
    def test_null_stays_null(self, mask: Any) -> None:
        assert masked(mask, None) is None

    @given(VALUES)
    def test_a_dropped_value_is_null(self, value: Any) -> None:
        assert masked("drop", value) is None

    def test_an_empty_text_is_no_null(self) -> None:
        assert masked("hmac", "") is not None
        assert masked({"redact": EMAIL}, "") == ""


class TestHmac:
    def test_is_what_its_user_computes(self) -> None:
        expected = hmac.new(KEY.encode(), "ännchen".encode(), hashlib.sha256).hexdigest()[:32]
        assert masked("hmac", "ännchen") == expected

    def test_is_equal_in_every_table_for_equal_values(self) -> None:
        assert masker("hmac", "a").value("who", "x") == masker("hmac", "b").value("who", "x")
        assert masked("hmac", 42) == masked("hmac", "42") == masked("hmac", Decimal("42"))

    def test_depends_on_the_key(self) -> None:
        other = masker("hmac", hmac_key=KEY + "!")
        assert other.value("who", "x") != masked("hmac", "x")

    @given(VALUES, VALUES)
    def test_takes_every_value_and_is_hex(self, one: Any, two: Any) -> None:
        made = masker("hmac")
        digests = [made.value("who", value) for value in (one, two)]
        for value, digest in zip((one, two), digests, strict=True):
            if value is not None:
                assert len(digest) == 32
                assert set(digest) <= set("0123456789abcdef")
        if isinstance(one, str) and isinstance(two, str):
            assert (one == two) == (digests[0] == digests[1])

    @pytest.mark.parametrize(
        "value", ["\ud800", date(2024, 1, 2), Moment("time", 5), b"\x00\xff", [SECRET], {"a": 1}]
    )
    def test_lets_nothing_odd_through(self, value: Any) -> None:
        assert len(masked("hmac", value)) == 32

    def test_needs_its_key_from_the_start(self) -> None:
        with pytest.raises(ContractError, match="ROWVEC_MASKING__HMAC_KEY"):
            masker("hmac", hmac_key=None)


class TestRedact:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (f"mail {SECRET} now", "mail █ now"),
            ("nobody", "nobody"),
            ([SECRET, "x", None, 5, [SECRET]], ["█", "x", None, 5, ["█"]]),
            ({"to": SECRET, SECRET: {"cc": [SECRET]}}, {"to": "█", "█": {"cc": ["█"]}}),
            ((SECRET, "x"), ["█", "x"]),
        ],
    )
    def test_wherever_a_text_is(self, value: Any, expected: Any) -> None:
        assert masked({"redact": EMAIL}, value) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (4915112345678, "█"),
            ({"phone": 4915112345678, "age": 42}, {"phone": "█", "age": 42}),
            (Decimal("12345678.90"), "█.90"),
            (Decimal("1.50"), Decimal("1.50")),
            (True, True),
            (Moment("date", 19_782), Moment("date", 19_782)),
        ],
    )
    def test_numbers_are_searched_as_they_are_written(self, value: Any, expected: Any) -> None:
        found = masked({"redact": r"\d{6,}"}, value)
        assert found == expected
        assert type(found) is type(expected)

    def test_what_matches_of_a_moment_goes(self) -> None:
        assert masked({"redact": r"-\d\d-\d\d$"}, Moment("date", 19_782)) == "2024█"

    def test_patterns_follow_each_other(self) -> None:
        mask = {"redact": [EMAIL, "X+"], "replacement": "X"}
        assert masked(mask, f"{SECRET}XX") == "X"

    @pytest.mark.parametrize("replacement", [r"\g<0>", r"\1", "\\", "$0", "", "█"])
    def test_the_replacement_is_no_template(self, replacement: str) -> None:
        mask = {"redact": f"({EMAIL})", "replacement": replacement}
        assert masked(mask, f"<{SECRET}>") == f"<{replacement}>"

    @pytest.mark.parametrize(
        "text",
        [
            r'{"to": "ann\u0040example.com"}',
            r'["ann\u0040example.com"]',
            r'"ann\u0040example.com"',
            r' {"a": {"ann\u0040example.com": [1, NaN]}}',
            json.dumps({"inner": json.dumps({"to": "ann\\u0040example.com"})}).replace(
                "\\\\\\\\", "\\\\"
            ),
        ],
    )
    def test_what_json_hides_in_escapes_is_found(self, text: str) -> None:
        def seen(value: Any) -> str:
            if isinstance(value, str):
                try:
                    return seen(json.loads(value))
                except ValueError:
                    return value
            return json.dumps(value, ensure_ascii=False)

        assert "example.com" in seen(text)
        found = masked({"redact": EMAIL}, text)
        assert "█" in found
        assert "example.com" not in seen(found)

    @pytest.mark.parametrize(
        "text",
        [
            r'{"m":"ann\u0040example.com","m":"x"}',
            r'{"a":[{"m":"x","m":["ann\u0040example.com"],"m":1}]}',
            r'{"m":{"ann\u0040example.com":1},"\u006d":null}',
            json.dumps({"inner": r'{"m":"ann\u0040example.com","m":"x"}'}),
            r'[{"n":12345678901234567.89,"m":"ann\u0040example.com","m":"x"}]',
        ],
    )
    def test_of_two_members_of_one_name_the_escapes_of_neither_hide_a_match(
        self, text: str
    ) -> None:
        found = masked({"redact": EMAIL}, text)
        assert "ann" not in found
        assert "12345678901234567.89" in found or "1234" not in text
        json.loads(found)

    def test_json_without_a_match_keeps_its_spelling(self) -> None:
        text = '{ "a" : "tab\\t\\u00e9",  "b":1.50 }'
        assert masked({"redact": EMAIL}, text) == text

    def test_half_a_character_in_json_becomes_no_bad_text(self) -> None:
        found = masked({"redact": EMAIL}, r'{"a": "\ud800", "b": "ann\u0040example.com"}')
        assert "█" in found
        found.encode()

    @given(VALUES)
    def test_no_match_is_left_in_any_value(self, value: Any) -> None:
        def texts(value: Any) -> list[str]:
            if isinstance(value, dict):
                return [t for pair in value.items() for part in pair for t in texts(part)]
            if isinstance(value, list):
                return [t for each in value for t in texts(each)]
            return [value] if isinstance(value, str) else [str(value)]

        found = masked({"redact": "[0-9]", "replacement": ""}, value)
        assert not any(set(text) & set("0123456789") for text in texts(found))


class TestFailsClosed:
    @pytest.mark.parametrize(
        "value", [LONG, ["x", LONG], {"a": {LONG: 1}}, json.dumps([LONG, "\n"])]
    )
    def test_a_pattern_that_takes_too_long(self, value: Any) -> None:
        made = masker({"redact": [EMAIL, SLOW]}, pattern_timeout_ms=60)
        error = refusal(made, value)
        assert "pattern 2" in error.cause
        assert "pattern_timeout_ms" in error.hint
        assert LONG not in "".join(traceback.format_exception(error)) + repr(error)

    def test_the_time_is_of_the_whole_value(self) -> None:
        made = masker({"redact": SLOW}, pattern_timeout_ms=200)
        short = "a" * 18 + "b"  # one is well within the limit, a thousand are not
        assert made.value("who", short) == short
        assert refusal(made, [short] * 1_000)

    def test_and_it_begins_anew_with_each_value(self) -> None:
        made = masker({"redact": SLOW}, pattern_timeout_ms=200)
        short = "a" * 18 + "b"  # a tenth of the limit even on a busy machine, and all more than it
        for _ in range(100):
            assert made.value("who", short) == short

    @pytest.mark.parametrize("mask", ["hmac", {"redact": EMAIL}])
    def test_what_is_nested_too_deep(self, mask: Any) -> None:
        value: Any = SECRET
        for _ in range(5_000):
            value = [value]
        error = refusal(masker(mask), value)
        assert SECRET not in "".join(traceback.format_exception(error)) + repr(error)

    @pytest.mark.parametrize("mask", ["hmac", {"redact": EMAIL}])
    def test_what_no_column_has(self, mask: Any) -> None:
        error = refusal(masker(mask), {SECRET, "x"})
        assert SECRET not in "".join(traceback.format_exception(error)) + repr(error)

    def test_json_that_is_nested_too_deep(self) -> None:
        error = refusal(masker({"redact": EMAIL}), "[" * 100_000 + r'"ann\u0040example.com"')
        assert "nested" in error.cause


def test_neither_key_nor_value_shows_in_a_masker() -> None:
    made = masker("hmac")
    made.value("who", SECRET)
    assert KEY not in repr(made) + repr(vars(made))
