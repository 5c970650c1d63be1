import pytest

from pipeline.common.files import remove, replacing


def test_a_file_and_a_folder_appear_when_they_are_whole(tmp_path):
    with replacing(tmp_path / "new/file") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new/file").exists()
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "inside").write_text("whole")
    assert (tmp_path / "new/file").read_text() == (tmp_path / "folder/inside").read_text() == "whole"


def test_what_stood_there_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").touch()
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: path.write_text("half"), lambda path: path.mkdir()], ids=["file", "folder"])
def test_after_a_failure_the_old_stands_and_nothing_else(tmp_path, make):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        make(temporary)
        raise ZeroDivisionError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / ".file.part").mkdir()
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_removing_what_is_not_there_is_no_error(tmp_path):
    remove(tmp_path / "nothing")
