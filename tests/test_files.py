"""Files that are whole, or not there."""

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


def test_what_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "a.txt") as part:
        part.write_text("x")
