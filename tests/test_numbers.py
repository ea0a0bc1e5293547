"""What a command takes for a number."""

import pytest
from click.testing import CliRunner

from edge.cli import bench, doctor, events, listen, update
from export.__main__ import main as export
from train.__main__ import main as train

OPTIONS = [
    (listen.main, ["--threshold"]),
    (listen.main, ["--duration"]),
    (bench.main, ["--seconds"]),
    (doctor.main, ["--seconds"]),
    (events.main.commands["list"], ["--min-score"]),
    (update.main.commands["promote"], ["--percent"]),
    (train, ["outliers", "--minutes"]),
    (train, ["search", "--timeout"]),
    (export, ["--temperature"]),
]


@pytest.mark.parametrize(("command", "arguments"), OPTIONS)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_one_that_is_not_finite_is_refused(command, arguments, number):
    ended = CliRunner().invoke(command, [*arguments, number])
    assert ended.exit_code == 2
    assert f"Invalid value for '{arguments[-1]}'" in ended.output
    assert "Traceback" not in ended.output
