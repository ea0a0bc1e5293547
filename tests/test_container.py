"""The folders of deployment that nobody runs in a test: linted, and what they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli.listen import main
from edge.config import PROVIDERS

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "deployment" / name for name in ("container", "jetson", "monitoring")]
COMPOSE = ROOT / "deployment" / "container" / "compose.yaml"
DOCKERFILES = [path for folder in FOLDERS for path in folder.glob("Dockerfile*") if path.suffix != ".dockerignore"]
SCRIPTS = [path for folder in FOLDERS for path in folder.glob("*.sh")]
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 180}, document-start: disable, braces: {max-spaces-inside: 0}}}"
)


def clean(command, *arguments):
    tool = shutil.which(command, path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    if tool is None:
        pytest.skip(f"{command} is not installed")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout + done.stderr


def test_shell_scripts_are_clean():
    assert {path.name for path in SCRIPTS} == {"check.sh", "install.sh"}
    clean("shellcheck", *SCRIPTS)


def test_dockerfiles_are_clean():
    assert {path.parent.name for path in DOCKERFILES} == {"container", "jetson"}
    clean("hadolint", "--no-color", *DOCKERFILES)


def test_yaml_is_clean():
    clean("yamllint", "--strict", "-d", YAML_RULES, *FOLDERS)


def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


def test_the_compose_file_is_one():
    model = pytest.importorskip("compose_pydantic").ComposeSpecification
    content = {key: value for key, value in yaml.safe_load(COMPOSE.read_text()).items() if not key.startswith("x-")}
    model.model_validate(content)
    content["services"]["edge-listen"]["nonsense"] = 1
    with pytest.raises(ValueError, match="nonsense"):
        model.model_validate(content)


@pytest.mark.parametrize("name", services())
def test_every_service_has_no_more_rights_than_it_needs(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_what_the_compose_file_binds_in_is_there():
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (COMPOSE.parent / source).exists() or source in yaml.safe_load(COMPOSE.read_text())["volumes"]


def test_prometheus_scrapes_the_port_that_the_listener_serves():
    targets = yaml.safe_load((ROOT / "deployment" / "monitoring" / "targets" / "devices.yml").read_text())
    assert targets == [{"targets": ["edge-listen:9464"]}]
    assert "EDGE_LISTEN_METRICS=0.0.0.0:9464" in (COMPOSE.parent / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("", "no answer on port 9464: "),
        ("127.0.0.1:1", "no answer on port 1: "),
        ("abc", "EDGE_LISTEN_METRICS is 'abc'; allowed: [ADDRESS:]PORT, such as 0.0.0.0:9464"),
        ("99999", "EDGE_LISTEN_METRICS is '99999'; allowed: "),
    ],
)
def test_a_health_check_that_cannot_ask_ends_with_one_line(told, said):
    command = [sys.executable, "-IS", str(COMPOSE.parent / "healthy.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={"EDGE_LISTEN_METRICS": told})
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


def option_names():
    return {name for option in main.params for name in option.opts}


@pytest.mark.parametrize("page", ["containers.md", "jetson.md", "monitoring.md"])
def test_options_that_the_docs_give_to_edge_listen_exist(page):
    text = (ROOT / "docs" / page).read_text()
    # "edge-listen …" on one line of a command, and its options alone: `--wait`.
    commands = re.findall(r"(?<!-t )(?<!--name )\bedge-listen((?: +[^ \n#|`]+)*)", text)
    named = {word.partition("=")[0] for line in commands for word in line.split() if word.startswith("--")}
    assert named <= option_names()
    assert {f"--provider {name}" for name in re.findall(r"--provider (\w+)", text)} <= {
        f"--provider {name}" for name in (*PROVIDERS, "auto")
    }


def test_variables_of_the_image_are_options():
    text = "".join(path.read_text() for path in [*DOCKERFILES, *COMPOSE.parent.glob("*.yaml")])
    for name in set(re.findall(r"EDGE_LISTEN_(\w+)", text)):
        assert "--" + name.lower().replace("_", "-") in option_names(), name
