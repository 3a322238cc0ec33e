"""Splits: lists of one name a line, no case in two of them, each found exactly; published ones and drawn ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3ae_core.data import splits
from m3ae_core.data.protocols import PROTOCOLS, list_md5
from m3ae_core.data.splits import (
    Split,
    check_protocol,
    draw_split,
    read_names,
    read_part,
    read_split,
    select,
    write_split,
)
from m3ae_core.errors import ConfigError, InputError, M3AEError, OutputError
from m3ae_core.io.case import CaseFiles

CASES = tuple(CaseFiles(name, {}, None) for name in ("Brats18_1", "Brats18_10", "Brats18_2"))


@pytest.mark.parametrize("text", ["b\na\n", "b\na", "b\r\na\r\n", "\n  b \n\n\ta\n\n", "\ufeffb\na"])
def test_names_in_the_order_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(text.encode())
    assert read_names(path) == ("b", "a")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "empty"), (b" \n\n", "empty"), (b"a\nb\na\n", "repeats"), (b"\xff\xfe", "read")],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"train\.txt.*{problem}") as caught:
        read_names(path)
    assert caught.value.code == "split"


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError) as caught:
            read_names(path)
        assert caught.value.code == "split"


def test_cases_by_exactly_these_names_in_this_order() -> None:
    """Not by a part of the name: Brats18_1 is not Brats18_10."""
    assert select(CASES, ["Brats18_2", "Brats18_1"]) == (CASES[2], CASES[0])
    assert select(CASES, []) == ()


def test_listed_cases_that_are_not_there_are_counted() -> None:
    with pytest.raises(InputError, match=r"2 of 3 .* 'Brats18_3'") as caught:
        select(CASES, ["Brats18_1", "Brats18_3", "Brats18"])
    assert caught.value.code == "split"


def test_a_name_that_two_cases_have_is_ambiguous() -> None:
    twins = (*CASES, CaseFiles("Brats18_2", {}, None))
    assert select(twins, ["Brats18_1"]) == (CASES[0],)
    with pytest.raises(InputError, match=r"More than one .* Brats18_2"):
        select(twins, ["Brats18_1", "Brats18_2"])


# --- folders ---------------------------------------------------------------------------------------


def write_lists(folder: Path, **lists: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for part, names in lists.items():
        (folder / f"{part}.txt").write_text("\n".join(names) + "\n", "utf-8")
    return folder


def test_a_folder_is_three_lists(tmp_path: Path) -> None:
    folder = write_lists(tmp_path, train=["b", "a"], val=["c"], test=["d", "e"])
    assert read_split(folder) == Split(("b", "a"), ("c",), ("d", "e"))
    assert [read_part(folder, part) for part in splits.PARTS] == [("b", "a"), ("c",), ("d", "e")]


def test_only_the_training_list_must_be_there(tmp_path: Path) -> None:
    assert read_split(write_lists(tmp_path / "own", train=["a"])) == Split(("a",))
    with pytest.raises(InputError, match=r"train\.txt"):
        read_split(write_lists(tmp_path / "half", val=["a"], test=["b"]))


def test_a_text_file_is_the_list_of_whichever_part_is_asked_for(tmp_path: Path) -> None:
    path = write_lists(tmp_path, val=["x", "y"]) / "val.txt"
    assert read_part(path, "train") == read_part(path, "val") == ("x", "y")


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_parts_share_no_case(tmp_path: Path, first: str, second: str) -> None:
    lists = {part: [f"{part}-1", f"{part}-2", f"{part}-3"] for part in splits.PARTS}
    lists[second][1:] = lists[first][1:]
    folder = write_lists(tmp_path, **lists)
    with pytest.raises(
        InputError, match=rf"{first}\.txt and {second}\.txt 2 \({first}-2, {first}-3\)"
    ) as caught:
        read_split(folder)
    assert caught.value.code == "overlap"
    assert caught.value.path == folder


def test_long_overlaps_name_the_first_ten(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(37)]
    with pytest.raises(InputError, match=r"37 \(00, .*, 09 and 27 more\)"):
        read_split(write_lists(tmp_path, train=names, test=names))


def test_the_identity_is_that_of_the_names_per_part() -> None:
    split = Split(("a", "b"), ("c",))
    assert split.sha256 == Split(("b", "a"), ("c",)).sha256
    others = [
        Split(("a", "b", "c")),
        Split(("a",), ("b", "c")),
        Split(("a", "b"), (), ("c",)),
        Split(("ab",), ("c",)),
    ]
    assert len({split.sha256, *(other.sha256 for other in others)}) == 5
    assert split.sha256 == "c133c4e5e049231ce87492c3d0cedcf9734011a4839011aadaf5057b20fea914"


# --- published splits ------------------------------------------------------------------------------


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


def published_2018(folder: Path, train: int = 199) -> Path:
    return write_lists(folder, train=numbered("a", train), val=numbered("b", 29), test=numbered("c", 57))


def test_the_published_numbers(tmp_path: Path) -> None:
    assert sum(PROTOCOLS["brats2018-rfnet3"].counts.values()) == 285  # all training cases of BraTS 2018
    assert sum(PROTOCOLS["brats2020"].counts.values()) == 369  # and of BraTS 2020
    folder = published_2018(tmp_path)
    check_protocol(read_split(folder), "brats2018-rfnet3", folder)
    with pytest.raises(
        InputError, match="train 199 instead of 219, val 29 instead of 50, test 57 instead of 100"
    ):
        check_protocol(read_split(folder), "brats2020", folder)


def test_one_case_too_few(tmp_path: Path) -> None:
    folder = published_2018(tmp_path, train=198)
    with pytest.raises(InputError, match=r"brats2018-rfnet3: train 198 instead of 199\.") as caught:
        check_protocol(read_split(folder), "brats2018-rfnet3", folder)
    assert (caught.value.code, caught.value.path) == ("counts", folder)


def test_the_md5_is_that_of_the_published_files(tmp_path: Path) -> None:
    """They end every line with a line feed; a list saved with other line ends is still the same list."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"Brats18_2013_27_1\r\nBrats18_CBICA_AUR_1")
    assert list_md5(read_names(path)) == "c3940f64081cb08fb3e847dd6eecac8f"


def test_the_training_list_of_another_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFNet's train2.txt beside val3.txt and test3.txt: named as what it is, with and without the overlap."""
    folder = published_2018(tmp_path / "apart")
    shared = write_lists(tmp_path / "shared", train=["x", "b000"], val=["b000"])
    lists = [list_md5(read_names(place / "train.txt"))[:8] for place in (folder, shared)]
    monkeypatch.setattr(splits, "SECOND_TRAINING_LIST", lists[0])
    with pytest.raises(InputError, match=r"train\.txt.*split 2.*train3\.txt") as caught:
        check_protocol(read_split(folder), "brats2018-rfnet3", folder)
    assert caught.value.code == "other-split"
    with pytest.raises(InputError) as caught:
        read_split(shared)
    assert "split 2" not in str(caught.value)
    monkeypatch.setattr(splits, "SECOND_TRAINING_LIST", lists[1])
    with pytest.raises(InputError, match=r"b000.*split 2.*train3\.txt"):
        read_split(shared)


def test_rfnet_puts_the_grade_before_names_of_2020(tmp_path: Path) -> None:
    lists = {"train": ["HG_BraTS20_Training_002", "LG_BraTS20_Training_260", "HG_other"]}
    names = read_names(write_lists(tmp_path, **lists) / "train.txt")
    assert names == ("BraTS20_Training_002", "BraTS20_Training_260", "HG_other")
    cases = tuple(
        CaseFiles(name, {}, None) for name in ("BraTS20_Training_002", "HG_BraTS20_Training_260", "other")
    )
    assert select(cases, names[:2]) == cases[:2]
    with pytest.raises(InputError, match="'HG_other'"):
        select(cases, names)
    with pytest.raises(InputError, match=r"overlap|share"):
        read_split(write_lists(tmp_path, train=["HG_BraTS20_Training_002"], val=["BraTS20_Training_002"]))


# --- splits of one's own ---------------------------------------------------------------------------

NAMES = [f"case-{number}" for number in range(50)]


def test_a_drawn_split_is_a_partition() -> None:
    split = draw_split(NAMES, 0.1, 0.2, seed=0)
    assert [len(split.part(part)) for part in splits.PARTS] == [35, 5, 10]
    assert sorted(split.train + split.val + split.test) == sorted(NAMES)


def test_the_order_of_the_listing_does_not_matter_and_the_seed_does() -> None:
    split = draw_split(NAMES, 0.1, 0.2, seed=0)
    assert draw_split(reversed(NAMES), 0.1, 0.2, seed=0) == split
    assert draw_split(NAMES, 0.1, 0.2, seed=1) != split
    assert split.test != tuple(sorted(NAMES)[:10])


def test_the_same_seed_draws_the_same_split_in_every_version() -> None:
    assert draw_split(NAMES[:6], 0.2, 0.2, seed=0) == Split(
        ("case-0", "case-1", "case-3", "case-5"), ("case-4",), ("case-2",)
    )


def test_every_case_is_tested_on_as_often() -> None:
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(200):
        for name in draw_split(NAMES, 0.1, 0.2, seed).test:
            counts[name] += 1
    assert 15 < min(counts.values()) <= max(counts.values()) < 65  # 40 expected, standard deviation 5.7


def test_small_parts_have_a_case_and_parts_of_nothing_none() -> None:
    split = draw_split(NAMES[:3], 0.01, 0.01, seed=0)
    assert [len(split.part(part)) for part in splits.PARTS] == [1, 1, 1]
    assert draw_split(NAMES, 0, 0, seed=0) == Split(tuple(sorted(NAMES)))


def test_visits_of_one_patient_stay_together() -> None:
    visits = [f"BraTS-GLI-{patient:05}-{visit:03}" for patient in range(30) for visit in range(3)]
    split = draw_split(visits, 0.1, 0.2, seed=0)
    patients = [{name[:15] for name in split.part(part)} for part in splits.PARTS]
    assert [len(part) for part in patients] == [21, 3, 6]
    assert len(set().union(*patients)) == 30


@pytest.mark.parametrize(
    ("names", "validation", "test", "code"),
    [
        (NAMES, 0.5, 0.5, "fractions"),
        (NAMES, -0.1, 0.2, "fractions"),
        (NAMES, float("nan"), 0.2, "fractions"),
        (NAMES[:2], 0.1, 0.1, "fractions"),
        ([*NAMES, "case-7"], 0.1, 0.2, "split"),
        (["a", "b\nc", "d"], 0.1, 0.2, "split"),
        (["a", "\udce4", "d"], 0.1, 0.2, "split"),
    ],
)
def test_what_cannot_be_drawn(names: list[str], validation: float, test: float, code: str) -> None:
    with pytest.raises(M3AEError) as caught:
        draw_split(names, validation, test, seed=0)
    assert isinstance(caught.value, ConfigError if code == "fractions" else InputError)
    assert caught.value.code == code


def test_a_written_split_reads_back(tmp_path: Path) -> None:
    split = draw_split(NAMES, 0.1, 0.2, seed=0)
    assert read_split(write_split(split, tmp_path / "new" / "split")) == split
    write_split(Split(("a",)), tmp_path / "bare")
    assert [path.name for path in (tmp_path / "bare").iterdir()] == ["train.txt"]


@pytest.mark.parametrize("part", splits.PARTS)
def test_no_list_is_overwritten(tmp_path: Path, part: str) -> None:
    folder = write_lists(tmp_path, **{part: ["old"]})
    with pytest.raises(OutputError) as caught:
        write_split(Split(("a",), ("b",), ("c",)), folder)
    assert caught.value.code == "exists"
    assert [path.name for path in folder.iterdir()] == [f"{part}.txt"]
    assert read_names(folder / f"{part}.txt") == ("old",)


def test_a_split_written_by_half_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at any of the three files: what is there then is refused as a split."""
    for whole in range(3):
        folder, written = tmp_path / str(whole), []

        def write(path: Path, text: str, written: list[Path] = written, limit: int = whole) -> Path:
            if len(written) == limit:
                raise OutputError("The disk is full.", "Free some space.", path=path)
            written.append(path)
            path.write_text(text)
            return path

        monkeypatch.setattr(splits, "write_text", write)
        with pytest.raises(OutputError):
            write_split(Split(("a",), ("b",), ("c",)), folder)
        assert len(written) == whole
        with pytest.raises(InputError):
            read_split(folder)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        write_split(Split(("a",)), tmp_path / "file" / "split")
    assert caught.value.code == "not-writable"
