"""A scenario file is read as meant, and every mistake in one is named with file, line, key and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import ScenarioError
from testbed.scenario import load as loader
from testbed.scenario.load import find, line_of, load, parse_override, shipped
from testbed.scenario.units import parse

GOOD = """\
[model]
names = ["alexnet"]

[topology]
edges = 2

[links.backbone]
rate = "30 Mbit/s"   # a comment with rate = "1 s"
delay = "20 ms"

[requests]
count = 3
"""


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str, name: str = "case.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return put


def refused(path: Path | str, *overrides: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_values_become_si_and_name_and_directory_come_from_the_file(write, tmp_path):
    scenario = load(write(GOOD))
    assert scenario.links["backbone"].rate == 30e6
    assert scenario.links["backbone"].delay == pytest.approx(0.02)
    assert scenario.name == "case"
    assert scenario.directory == str(tmp_path)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_scenario_is_found_by_name_and_valid(name):
    assert load(name).name == name
    assert find(name) == find(find(name))


def test_there_is_a_quickstart_as_the_issue_asks():
    scenario = load("quickstart")
    assert (scenario.topology.devices, scenario.topology.edges) == (1, 4)
    assert scenario.model.names == ("vgg16", "resnet18")
    assert scenario.compute.tensors == "real"
    assert {"cloud-only", "hpa", "d3", "optimal"} <= set(scenario.planning.planners)
    assert scenario.links["backbone"].trace


def test_an_unknown_key_names_file_line_table_and_the_nearest_key(write):
    path = write(GOOD.replace("delay =", "dellay ="))
    text = refused(path)
    assert text.startswith(f"{path}:9:")
    assert 'unknown key "dellay" in [links.backbone]; did you mean "delay"?' in text


def test_an_unknown_table_is_named_at_the_top_level(write):
    text = refused(write(GOOD.replace("[requests]", "[request]")))
    assert 'unknown key "request" at the top level; did you mean "requests"?' in text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ('"30 Mbps"', 'did you mean "Mbit/s"?'),
        ('"30 mbit/s"', 'did you mean "Mbit/s"?'),
        ('"30 ms"', '"ms" is a unit of duration'),
        ('"fast"', "is not a rate"),
        ('"-3 Mbit/s"', "is not a rate"),
        ("30", 'a string with a unit ("bit/s"'),
        ('"0 Mbit/s"', "greater than 0"),
    ],
)
def test_a_wrong_unit_or_bare_number_names_the_right_ones(write, wrong, says):
    path = write(GOOD.replace('"30 Mbit/s"', wrong))
    text = refused(path)
    assert says in text
    assert text.startswith(f"{path}:8: links.backbone.rate:")


def test_all_mistakes_are_reported_at_once(write):
    text = refused(write(GOOD.replace("edges = 2", "edges = 0").replace("count = 3", 'count = "many"')))
    assert "topology.edges: input should be greater than or equal to 1 (got 0)" in text
    assert "requests.count" in text


def test_toml_that_cannot_be_parsed_names_the_line(write):
    path = write(GOOD.replace("edges = 2", "edges = = 2"))
    text = refused(path)
    assert str(path) in text
    assert "line 5" in text


def test_a_missing_file_names_the_nearest_shipped_scenario(tmp_path):
    assert 'did you mean "quickstart"?' in refused("quikstart")
    assert "no scenario file" in refused(tmp_path / "nowhere.toml")
    assert "is a folder" in refused(tmp_path)


def test_a_missing_table_and_missing_models_are_named(write):
    assert "model is missing" in refused(write('[links.backbone]\nrate = "1 Mbit/s"\n'))
    assert "model.names is missing" in refused(write("[model]\nseed = 1\n[links]\n"))


def test_an_open_loop_without_a_rate_and_a_rate_without_an_open_loop_are_refused(write):
    assert "needs a rate" in refused(write(GOOD + 'arrival = "poisson"\n'))
    assert "does nothing" in refused(write(GOOD + 'rate = "2 /s"\n'))


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("links.backbone.delay=0 ms", ("links", "backbone", "delay"), "0 ms"),
        ('links.backbone.delay="0 ms"', ("links", "backbone", "delay"), "0 ms"),
        ("requests.count = 7", ("requests", "count"), 7),
        ("topology.cellular=true", ("topology", "cellular"), True),
        ('links."lan-e1".rate=1 Gbit/s', ("links", "lan-e1", "rate"), "1 Gbit/s"),
        ('planning.planners=["d3", "hpa"]', ("planning", "planners"), ["d3", "hpa"]),
        ("links.backbone.trace=generate:lte?seed=3&mean=8Mbit", ("links", "backbone", "trace"), "generate:lte?seed=3&mean=8Mbit"),
    ],
)
def test_overrides_take_toml_values_and_bare_words(text, path, value):
    assert parse_override(text) == (path, value)


def test_overrides_win_over_the_file_and_later_ones_over_earlier(write):
    path = write(GOOD)
    scenario = load(path, ["links.backbone.delay=0 ms", "requests.count=5", "requests.count=6", "planning.planners=hpa"])
    assert scenario.links["backbone"].delay == 0.0
    assert scenario.requests.count == 6
    assert scenario.planning.planners == ("hpa",)
    assert scenario.links["backbone"].rate == 30e6


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("requests.count=x", "--set requests.count=x: requests.count"),
        ("requests.cout=3", 'did you mean "count"?'),
        ("requests", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("a b=3", "is not a key"),
        ("planning.planners=[1", "is not a TOML value"),
        ("topology.edges.x=3", "topology.edges is a value, not a table"),
    ],
)
def test_a_bad_override_is_quoted(write, override, says):
    text = refused(write(GOOD), override)
    assert says in text
    assert override in text


def test_relative_files_of_models_and_weights_start_at_the_scenario(write, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"")
    scenario = load(write(GOOD), ['model.names=["net.pt2", "alexnet"]'])
    assert scenario.model.names == (str(tmp_path / "net.pt2"), "alexnet")
    assert "no such file" in refused(write(GOOD), "model.names=other.pt2")
    assert "no such file" in refused(write(GOOD), "model.weights.alexnet=w.safetensors")


def test_lines_are_found_also_for_quoted_and_inline_keys():
    text = 'a = 1\n[t."x y"]\nk = {b = 2}\n[[array]]\nz = 3\n'
    assert line_of(text, ("t", "x y", "k", "b")) == 3
    assert line_of(text, ("t", "x y")) == 2
    assert line_of(text, ("nowhere",)) is None


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("rate", "1.5 Gbit/s", 1.5e9), ("duration", "250us", 250e-6), ("size", "64 KiB", 65536.0), ("frequency", "30 /min", 0.5)],
)
def test_units_are_read_to_si(kind, text, value):
    assert parse(kind, text) == pytest.approx(value)


@pytest.mark.parametrize(("given", "value"), [("5 %", 0.05), (0.05, 0.05), ("0.05", 0.05)])
def test_a_share_may_be_a_percentage_or_a_number(given, value):
    assert parse("share", given) == pytest.approx(value)


def test_the_loader_offers_what_the_package_ships():
    assert set(loader.shipped()) >= {"quickstart", "two_sites", "cellular"}
