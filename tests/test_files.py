"""Files that are whole, or not there."""

import os
import subprocess

import pytest

from edge.files import replacing


def test_a_file_is_replaced_whole_or_left_alone(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("one")
        assert not path.exists()
    with pytest.raises(LookupError), replacing(path) as part:
        "two".encode(part.write_text("half") and "no such codec")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "one")]


def test_a_link_stays_one(tmp_path):
    file, link = tmp_path / "deep" / "a.txt", tmp_path / "link"
    file.parent.mkdir()
    file.write_text("one")
    link.symlink_to(file)
    (tmp_path / "to come").symlink_to("b.txt")
    for name in ("link", "to come"):
        with replacing(tmp_path / name) as part:
            part.write_text("two")
    assert link.is_symlink()
    assert (file.read_text(), (tmp_path / "b.txt").read_text()) == ("two", "two")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "b.txt", "deep", "link", "to come"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        with replacing(pipe) as part:
            part.write_text("two")
        assert reader.communicate()[0] == "two"
    assert pipe.is_fifo()


def test_what_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "a.txt") as part:
        part.write_text("x")
