"""Building the kernel: sources are found and named, what is missing is said, and the cache never holds half a kernel."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from testbed.errors import BackendError, InputError, RunError
from testbed.kernel import build as building
from testbed.kernel import cache, source
from testbed.kernel.cache import Kernel

MAKEFILE = """VERSION = 6
PATCHLEVEL = 99
SUBLEVEL = 7
tinyconfig olddefconfig:
	@touch .config
linux:
	@{recipe}
"""
GOOD = "echo '  CC      a.o'; echo '  LD      linux'; printf '#!/bin/sh\\n' > linux; chmod +x linux"
BAD = "echo 'a.c:1: error: no such thing'; exit 1"


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "NEEDED_BYTES", 0)
    return tmp_path / "cache" / "d3-testbed" / "kernel"


def tree(folder: Path, recipe: str) -> Path:
    """A source whose "kernel" takes every option: what stands in .config is what was asked."""
    (folder / "arch" / "um").mkdir(parents=True)
    (folder / "arch" / "um" / "Kconfig").write_text("")
    (folder / "Makefile").write_text(MAKEFILE.format(recipe=recipe))
    return folder


def archive(tmp_path: Path, recipe: str) -> Path:
    folder = tree(tmp_path / "linux-6.99.7", recipe)
    with tarfile.open(tmp_path / "linux-6.99.tar.xz", "w:xz") as file:
        file.add(folder, folder.name)
    return tmp_path / "linux-6.99.tar.xz"


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


def test_a_kernel_is_built_once_and_found_from_then_on(tmp_path: Path, cache_home: Path):
    stages: list[str] = []
    given = source.find(str(archive(tmp_path, GOOD)), lambda _text: None)
    kernel, fresh = building.build(given, lambda stage, _done, _total: stages.append(stage), jobs=1)
    assert fresh
    assert list(dict.fromkeys(stages)) == ["unpacking", "configuring", "compiling"]
    assert kernel.folder == cache_home / f"6.99.7-{cache.config_hash()}"
    assert kernel.facts["version"] == kernel.version == "6.99.7"
    assert kernel.facts["config_hash"] == kernel.config_hash
    assert set(cache.options()) <= set((kernel.folder / "config").read_text().splitlines())
    assert "LD      linux" in (kernel.folder / "build.log").read_text()
    assert cache.installed() == kernel
    assert building.build(source.Source(given.path, "6.99.7"), silent) == (kernel, False)


def test_a_build_that_fails_says_why_and_leaves_nothing_but_its_log(tmp_path: Path, cache_home: Path):
    given = source.find(str(archive(tmp_path, BAD)), lambda _text: None)
    with pytest.raises(RunError, match=r"does not compile(.|\n)*no such thing(.|\n)*failed-build\.log"):
        building.build(given, silent, jobs=1)
    assert cache.installed() is None
    assert sorted(entry.name for entry in cache_home.iterdir()) == [".lock", "failed-build.log"]


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, cache_home: Path):
    def interrupt(stage: str, done: int, _total: int) -> None:
        if stage == "compiling" and done:
            raise KeyboardInterrupt

    given = source.find(str(archive(tmp_path, "echo one; sleep 60; echo two")), lambda _text: None)
    with pytest.raises(KeyboardInterrupt):
        building.build(given, interrupt, jobs=1)
    assert [entry.name for entry in cache_home.iterdir()] == [".lock"]


def test_an_option_that_the_kernel_takes_back_is_an_error(tmp_path: Path, cache_home: Path):
    folder = tree(tmp_path / "linux", GOOD)
    text = (folder / "Makefile").read_text().replace("@touch .config", "@sed -i '/NETEM/d' .config 2>/dev/null; touch .config")
    (folder / "Makefile").write_text(text)
    subprocess.run(["tar", "-cf", "linux-6.99.tar", "linux"], cwd=tmp_path, check=True)
    with pytest.raises(RunError, match=r"does not take these options.*CONFIG_NET_SCH_NETEM=y"):
        building.build(source.find(str(tmp_path / "linux-6.99.tar"), lambda _text: None), silent)


def test_a_missing_toolchain_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building.shutil, "which", lambda name: None if name in ("flex", "xz") else f"/usr/bin/{name}")
    assert building.missing_tools() == [
        "to build the kernel, flex, xz must be installed: sudo apt-get install flex xz-utils",
    ]


@pytest.mark.parametrize(("machine", "system"), [("aarch64", "Linux"), ("x86_64", "Darwin")])
def test_other_machines_are_told_so(monkeypatch: pytest.MonkeyPatch, machine: str, system: str):
    monkeypatch.setattr(building.platform, "machine", lambda: machine)
    monkeypatch.setattr(building.platform, "system", lambda: system)
    assert "x86-64 Linux only" in building.missing_tools()[0]


UBUNTU = {
    "linux-source": ("installed", "6.8.0-48.48", "linux-source-6.8.0"),
    "linux-source-6.8.0": ("installed", "6.8.0-48.48", "binutils, bzip2, coreutils"),
}


def ubuntu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str = GOOD) -> Path:
    """A made-up /usr/src as Ubuntu's packages leave it, and a `dpkg-query` that knows them; the archive."""
    place = tmp_path / "usr" / "src"
    name = "linux-source-6.8.0"
    inner = tree(tmp_path / name, recipe)
    (place / name).mkdir(parents=True)
    packed = place / name / f"{name}.tar.bz2"
    with tarfile.open(packed, "w:bz2") as file:
        file.add(inner, name)
    monkeypatch.setattr(source, "PLACE", place)
    programs = tmp_path / "bin"
    programs.mkdir()
    answers = "".join(f"    {package}) printf '%s' '{' '.join(said)}';;\n" for package, said in UBUNTU.items())
    script = f'#!/bin/sh\nfor last; do :; done\ncase "$last" in\n{answers}    *) echo "no packages found" >&2; exit 1;;\nesac\n'
    (programs / "dpkg-query").write_text(script)
    (programs / "dpkg-query").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return packed


@pytest.mark.parametrize("asked", [None, "linux-source", "linux-source-6.8.0"])
def test_ubuntus_packages_are_found_where_they_put_their_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
):
    packed = ubuntu(tmp_path, monkeypatch)
    assert source.find(asked, lambda _text: None, install=False) == source.Source(packed, "6.8.0")
    link = source.PLACE / packed.name
    link.symlink_to(packed)
    found = source.find(asked, lambda _text: None, install=False)
    assert found.path.samefile(packed)
    assert found.version == "6.8.0"


def test_a_package_that_holds_another_version_than_its_name_is_built_once(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
):
    ubuntu(tmp_path, monkeypatch)
    given = source.find("linux-source", lambda _text: None, install=False)
    kernel, fresh = building.build(given, silent, jobs=1)
    assert fresh
    assert (kernel.version, kernel.facts["source_version"]) == ("6.99.7", "6.8.0")
    assert building.build(given, silent) == (kernel, False)


def test_what_unpacks_an_archive_is_among_the_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building.shutil, "which", lambda name: None if name == "bzip2" else f"/usr/bin/{name}")
    assert building.missing_tools(source.Source(tmp_path / "linux.tar.xz", "6.8")) == []
    words = "to build the kernel, bzip2 must be installed: sudo apt-get install bzip2"
    assert building.missing_tools(source.Source(tmp_path / "linux.tar.bz2", "6.8")) == [words]


def test_what_is_no_source_is_refused(tmp_path: Path):
    (tmp_path / "linux.zip").write_text("")
    for wanted, words in (
        (tmp_path, "no arch/um"),
        (tmp_path / "absent.tar.xz", "no such file"),
        (tmp_path / "linux.zip", "archive"),
    ):
        with pytest.raises(InputError, match=words):
            source.find(str(wanted), lambda _text: None)


def test_a_package_that_nobody_knows_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "_archive", lambda package: None)
    monkeypatch.setattr(source, "_candidate", lambda package: False)
    with pytest.raises(BackendError, match="no package 'linux-source-1'"):
        source.find("linux-source-1", lambda _text: None, install=False)
    with pytest.raises(BackendError, match=r"testbed kernel build --source"):
        source.find(None, lambda _text: None, install=False)
    monkeypatch.setattr(source, "_candidate", lambda package: True)
    with pytest.raises(BackendError, match=r"sudo apt-get install linux-source-6\.12"):
        source.find(None, lambda _text: None, install=False)


def test_the_newest_kernel_of_todays_configuration_is_taken(cache_home: Path):
    for name in (f"6.2.10-{cache.config_hash()}", f"6.12.1-{cache.config_hash()}", "9.9.9-0123456789ab"):
        (cache_home / name).mkdir(parents=True)
        (cache_home / name / "linux").write_text("")
        os.chmod(cache_home / name / "linux", stat.S_IRWXU)
    found = cache.installed()
    assert isinstance(found, Kernel)
    assert found.version == "6.12.1"


def test_comments_do_not_change_the_configuration():
    assert all(option.startswith("CONFIG_") or option.endswith(" is not set") for option in cache.options())
    assert len(set(cache.options())) == len(cache.options())
    assert "CONFIG_UML_TIME_TRAVEL_SUPPORT=y" in cache.options()
