"""Which pictures train, validate and test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsprompter_cli.data.convert.picture_split import choose_splits, parse_split
from rsprompter_cli.errors import InputError, UsageError


def test_what_can_be_said() -> None:
    assert parse_split(None) is None
    assert parse_split("folders") == {}
    assert parse_split("val") == {"val": 1.0}
    assert parse_split("train=0.7, val=0.2,test=.1") == {"train": 0.7, "val": 0.2, "test": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trian=0.8,val=0.2", "'trian' is not a split .*'train'"),
        ("train=0.8", "add up to 0.8"),
        ("train,val", "add up to 2"),
        ("train=0.5,train=0.5", "given twice"),
        ("train=1,val=0", "share of val"),
        ("train=nan,val=0.2", "share of train"),
        ("train=much", "share of train"),
        ("", "not a split"),
    ],
)
def test_what_cannot(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_split(text)


@given(
    st.lists(st.text("abcdef", min_size=1, max_size=4), unique=True, max_size=40),
    st.sampled_from(["train=0.8,val=0.2", "train=0.34,val=0.33,test=0.33", "train=0.98,val=0.01,test=0.01", "test"]),
    st.randoms(use_true_random=False),
)
def test_every_picture_has_one_split_whatever_the_order(names: list[str], text: str, random: object) -> None:
    shares = parse_split(text)
    assert shares is not None
    filled = set(names[::2])
    splits = choose_splits(names, filled, shares, where="x")
    assert set(splits) == set(names)
    assert splits == choose_splits(sorted(names), filled, shares, where="x")
    for group in (filled, set(names) - filled):
        for split, share in shares.items():
            count = sum(splits[name] == split for name in group)
            assert abs(count - share * len(group)) < len(shares)
            assert count > 0 or len(group) < len(shares)


def test_folders_decide_where_there_are_any() -> None:
    names = ["train/a.png", "train/deep/b.png", "Valid/c.png", "test/d.png"]
    wanted = dict(zip(names, ["train", "train", "val", "test"], strict=True))
    assert choose_splits(names, (), None, where="x") == wanted
    assert choose_splits(names, (), {}, where="x") == wanted
    assert set(choose_splits(names, (), {"val": 1.0}, where="x").values()) == {"val"}
    with pytest.raises(InputError, match=r"x: 1 of 5 images, such as e\.png, is not in a folder"):
        choose_splits([*names, "e.png"], (), None, where="x")
    with pytest.raises(InputError, match="1 of 1"):
        choose_splits(["e.png"], (), {}, where="x")
    # A picture that is called as a split lies in none.
    assert choose_splits(["train.png"], (), None, where="x") == {"train.png": "train"}
