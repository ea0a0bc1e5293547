"""What a Raspberry Pi is set up with; ``deployment/raspberry_pi/check.sh`` runs it, in an arm64 root."""

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from edge.cli.listen import asked_of
from edge.cli.listen import main as listen
from tests import arm64
from tests.conftest import ROOT
from tests.doc_commands import commands_of

DEPLOYMENT = ROOT / "deployment"
PI = DEPLOYMENT / "raspberry_pi"
PAGE = (ROOT / "docs" / "raspberry-pi.md").read_text()


@pytest.fixture(scope="module")
def bundle():
    """The module that ``make bundle`` runs."""
    spec = importlib.util.spec_from_file_location("bundle", PI / "bundle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shellcheck_is_content():
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck")
    scripts = sorted(DEPLOYMENT.rglob("*.sh"))
    assert PI / "install.sh" in scripts
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- install.sh refuses before it changes anything -----------------------------------------------------------


@pytest.fixture
def machine(tmp_path):
    """A bundle's folder, and programs that say what a Pi would say: ``says(name, words, code)`` changes one."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(PI / "install.sh", folder)
    for name, text in {"ARCH": "aarch64\n", "PYTHONS": "3.11\n3.13\n", "SHA256SUMS": f"{0:064}  ARCH\n"}.items():
        (folder / name).write_text(text)
    programs = tmp_path / "bin"
    programs.mkdir()

    def says(name, words, code=0):
        (programs / name).write_text(f"#!/bin/sh\necho '{words}'\nexit {code}\n")
        (programs / name).chmod(0o755)

    for name, words in {"id": 0, "getconf": 64, "uname": "aarch64", "python3": "3.11"}.items():
        says(name, words)

    def install(*options):
        environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run([folder / "install.sh", *options], capture_output=True, text=True, env=environment)
        return done.returncode, done.stderr

    install.says, install.folder = says, folder
    return install


@pytest.mark.parametrize(
    ("program", "words", "code", "expected"),
    [
        ("id", "1000", 0, "error: not root (sudo ./install.sh --log-to-ram)"),
        ("getconf", "32", 0, "error: this system is 32-bit, for which onnxruntime has no package (install the 64-bit"),
        ("python3", "Python 3.9.2", 1, "error: needs Python 3.11 or newer, this is Python 3.9.2 ("),
        ("uname", "x86_64", 0, "error: the bundle is for aarch64, this is x86_64 (make bundle ARCH=x86_64)"),
        ("python3", "3.12", 0, "error: the bundle is for Python 3.11,3.13, this is 3.12 ("),
        ("true", "", 0, "error: the bundle is damaged (copy and unpack it again)"),  # its sum is wrong
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(machine, program, words, code, expected):
    machine.says(program, words, code)
    code, said = machine("--log-to-ram")
    assert code == 1
    assert said.startswith(expected)
    assert said.count("\n") == 1


@pytest.mark.parametrize("options", [["--remove"], ["--purge"]])
def test_options_that_mean_nothing_are_refused(machine, options):
    code, said = machine(*options)
    assert (code, said.count("\n")) == (1, 1)
    assert options[0] in said


# --- what was in use stays in use ----------------------------------------------------------------------------

VENV = """#!/bin/sh
for folder; do :; done
[ "$3" = --without-pip ] || { echo 3.11; exit; }
mkdir -p "$folder/bin"
for name in python edge-inspect edge-listen; do ln -s /bin/true "$folder/bin/$name"; done
"""
SYSTEMCTL = """#!/bin/sh
case "$*" in
daemon-reload) cp {root}/etc/systemd/system/edge-listen.service {root}/loaded ;;
"restart edge-listen.service") ! grep -q broken {root}/loaded ;;
esac
"""


@pytest.fixture
def device(machine, bundle, tmp_path):
    """A system below ``device.root`` whose service starts unless ``broken`` stands in the unit that systemd has loaded.

    ``device.upgrade(line)`` installs a bundle whose unit has one more line; ``device.state()`` is what is in use.
    """
    root = tmp_path / "root"
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "opt").mkdir()
    script = machine.folder / "install.sh"
    script.write_text(re.sub(r"(?<=[= ])/(?=(opt|etc|usr|run|var)/)", f"{root}/", script.read_text()))
    for path in (*PI.glob("edge-*"), PI / "70-edge-listen-microphone.rules"):
        shutil.copy(path, machine.folder)
    (machine.folder / "EXTRAS").write_text("metrics\n")
    for name, words in {"ldconfig": "libportaudio.so.2", "udevadm": ""}.items():
        machine.says(name, words)
    for name, text in {"python3": VENV, "systemctl": SYSTEMCTL.format(root=root)}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    unit = root / "etc/systemd/system/edge-listen.service"

    def upgrade(line):
        shutil.copy(PI / unit.name, machine.folder)
        with (machine.folder / unit.name).open("a") as file:
            file.write(f"# {line}\n")
        (machine.folder / "SHA256SUMS").unlink()
        bundle.write_checksums(machine.folder)
        return machine()

    machine.root, machine.upgrade = root, upgrade
    machine.state = lambda: ((root / "opt/edge-listen").readlink(), unit.read_text().splitlines()[-1])
    return machine


def test_an_upgrade_that_does_not_start_leaves_program_and_units_of_before(device):
    assert device.upgrade("first") == (0, "")
    first = device.state()
    code, said = device.upgrade("broken")
    assert (code, said) == (
        1,
        "error: the new release does not start; the one before is in use again (journalctl -u edge-listen)\n",
    )
    assert device.state() == first == (first[0], "# first")
    assert list(first[0].parent.iterdir()) == [first[0]]


def test_a_rollback_brings_back_the_units(device):
    device.upgrade("first")
    first = device.state()
    assert device.upgrade("second") == (0, "")
    assert device.state()[1] == "# second"
    assert device("--rollback") == (0, "")
    assert device.state() == first


def test_where_the_release_before_does_not_start_either_it_is_said(device):
    """As where an earlier install.sh made it, and kept no units: those that are there stay."""
    device.upgrade("first")
    program, _ = device.state()
    shutil.rmtree(program / "units", ignore_errors=True)
    code, said = device.upgrade("broken")
    assert code == 1
    assert said.startswith("error: neither the new release nor the one before starts; the one before is in ")
    assert device.state() == (program, "# broken")


# --- the files that it installs ------------------------------------------------------------------------------


def settings(*, with_examples):
    """The settings of the service; ``with_examples``: as if every line that is commented out were not."""
    text = (PI / "edge-listen.toml").read_text()
    return tomllib.loads(re.sub(r"(?m)^#(\w+ = |\[)", r"\1", text) if with_examples else text)


def test_the_settings_are_options_of_edge_listen():
    options = {p.name for p in listen.params if isinstance(p, click.Option)}
    assert set(settings(with_examples=True)) <= options | {"update"}  # its table


@pytest.mark.parametrize("key", sorted(settings(with_examples=True).keys() - {"update"}))
def test_edge_listen_takes_each_setting(tmp_path, key):
    """As it is written there, without its #."""
    config = tmp_path / "edge-listen.toml"
    config.write_text(re.sub(rf"(?m)^#({key} = )", r"\1", (PI / "edge-listen.toml").read_text()))
    assert key in tomllib.loads(config.read_text())
    asked_of(listen.make_context("edge-listen", ["--config", str(config)]))  # raises nothing


def test_the_service_keeps_no_sound_and_sends_nothing():
    assert settings(with_examples=False) == {"wait": True, "output": "none", "metrics": "127.0.0.1:9464"}
    assert {"clips", "mqtt", "device"} < set(settings(with_examples=True))


TOKEN = re.compile(r'(?P<key>[A-Z]+)(?P<attribute>\{\w+\})?(?P<operator>==|!=|\+=|=)"(?P<value>[^"]*)"')
MATCHES = {"ACTION", "SUBSYSTEM", "SUBSYSTEMS", "KERNEL", "KERNELS", "ATTRS"}


def udev_rules():
    """The rules as a user has them, who has taken the two # away."""
    lines = (PI / "70-edge-listen-microphone.rules").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)  # as it is installed, it names nothing
    return [line[1:] for line in lines if re.match(r"#[A-Z]+[=!]=", line)]


def test_the_udev_rules_are_rules():
    card, control = udev_rules()
    for rule in (card, control):
        tokens = [TOKEN.fullmatch(word) for word in rule.split(", ")]
        assert all(tokens), rule
        *conditions, effect = tokens
        assert all(t["key"] in MATCHES and t["operator"] == "==" for t in conditions)
        assert (effect["key"], effect["operator"]) in {("ATTR", "="), ("SYMLINK", "+=")}
        assert {"{idVendor}", "{idProduct}", "{serial}"} <= {t["attribute"] for t in conditions}
    assert 'ATTR{id}="kitchen"' in card
    assert 'SYMLINK+="snd/kitchen"' in control


def test_udev_verifies_the_rules(tmp_path):
    if (
        shutil.which("udevadm") is None
        or subprocess.run(["udevadm", "verify", "--help"], capture_output=True).returncode
    ):
        pytest.skip("no udevadm verify: it came with systemd 254")
    path = tmp_path / "70-edge-listen-microphone.rules"
    path.write_text("".join(f"{rule}\n" for rule in udev_rules()))
    done = subprocess.run(["udevadm", "verify", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_leaves_it_to_the_services_to_end_the_models_that_they_try():
    listener, updater = ((PI / f"{name}.service").read_text().splitlines() for name in ("edge-listen", "edge-update"))
    assert {"KillMode=mixed", "OOMPolicy=continue"} <= set(listener)
    assert "OOMPolicy=continue" in updater


def test_the_journal_is_bounded_and_in_memory():
    lines = (PI / "journald-volatile.conf").read_text().splitlines()
    assert "[Journal]" in lines
    assert "Storage=volatile" in lines
    assert any(re.fullmatch(r"RuntimeMaxUse=\d+M", line) for line in lines)


# --- the bundle ----------------------------------------------------------------------------------------------


def test_the_same_inputs_make_the_same_bytes(bundle, tmp_path):
    archives = []
    for day, names in ((1, ["b.whl", "a.whl"]), (2, ["a.whl", "b.whl"])):
        folder = tmp_path / str(day)
        (folder / "wheels").mkdir(parents=True)
        for name in names:
            (folder / "wheels" / name).write_text(name)
            os.utime(folder / "wheels" / name, (day * 86400, day * 86400))
        (folder / "install.sh").write_text("#!/bin/sh\n")
        (folder / "wheels").chmod(0o700 + day)
        bundle.write_checksums(folder)
        archives.append(tmp_path / f"{day}.tar.gz")
        bundle.pack(folder, "edge-listen-1-aarch64", archives[-1])
    first, second = (path.read_bytes() for path in archives)
    assert first == second
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", archives[0], "-C", out], check=True)  # as on the device
    folder = out / "edge-listen-1-aarch64"
    assert os.access(folder / "install.sh", os.X_OK)
    assert (folder / "wheels" / "a.whl").read_text() == "a.whl"
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=folder, check=True)
    (folder / "wheels" / "a.whl").write_text("b.whl")
    assert subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True).returncode == 1


def test_the_bundle_holds_what_a_device_needs(bundle):
    wanted = {re.split(r"[>=<]", r)[0] for r in bundle.requirements(("http", "metrics", "mqtt"))}
    assert {"numpy", "onnxruntime", "sounddevice", "prometheus-client", "paho-mqtt", "httpx"} <= wanted
    assert not {"torch", "scipy", "onnx"} & wanted
    installed = re.search(r"^EXTRAS=(\S+)", (PI / "install.sh").read_text(), re.MULTILINE)[1].split(",")
    assert set(installed) == set(bundle.EXTRAS)
    assert all((PI / name).is_file() for name in bundle.FILES)


# --- the page, and the check ---------------------------------------------------------------------------------


def test_every_command_of_the_page_is_run_or_says_why_not():
    fences = commands_of(PAGE)
    assert {f.place for f in fences} == {"here", "pi", None}
    run = [line for f in fences if f.place for line in f.lines]
    for command in ("make bundle ARCH=aarch64", "sudo ./install.sh", "sudo ./install.sh --uninstall --purge"):
        assert command in run
    text = "\n".join(line for f in fences for line in f.lines)
    assert subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True).stderr == ""
    assert PAGE.count("```sh") == len(fences)


def test_a_fence_that_says_neither_is_found():
    with pytest.raises(ValueError, match="neither run nor said why not"):
        commands_of("```sh\nreboot\n```")


def test_the_page_names_the_places_of_install_sh():
    script = (PI / "install.sh").read_text()
    for place in re.findall(r"^(?:PROGRAM|RELEASES|CONFIG|UNITS|RULES|JOURNAL)=(\S+)", script, re.MULTILINE):
        assert place in PAGE


def test_what_a_device_can_run_of_the_suite():
    assert arm64.missing(Path(__file__).with_name("test_ring.py")) == set()
    assert "torch" in arm64.missing(Path(__file__).with_name("test_train.py"))
    some = re.search(r"^SOME=\((.*)\)", (PI / "check.sh").read_text(), re.MULTILINE)[1].split()
    assert some
    assert {name: arm64.missing(ROOT / name) for name in some} == {name: set() for name in some}
