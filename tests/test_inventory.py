"""Inventories are read strictly; certificates are for their hosts, hidden, never overwritten, renewed by the same authority."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from d3node.tls import ORCHESTRATOR as ROLE
from d3node.tls import Tls
from testbed import registry
from testbed.cli import main
from testbed.errors import InputError, InventoryError
from testbed.hosts import certificates, inventory, skeleton
from testbed.scenario.schema import TopologyTable

HOSTS = {"d1": ["127.0.1.1"], "e1": ["127.0.1.2", "edge.lab"], "c1": ["127.0.1.4"]}
LAYOUT = registry.layout(TopologyTable(devices=1, edges=1))
HEAD = 'format = 1\nsecret = "secret"\n'


def table(name: str = "d1", tier: str = "device", number: int = 1, more: str = "") -> str:
    where = f"127.0.1.{number}"
    return f'[[host]]\nname = "{name}"\ntier = "{tier}"\ncontrol = "{where}:5701"\ndata = "{where}:5700"\n{more}\n'


ALL = table() + table("e1", "edge", 2) + table("c1", "cloud", 3)


def read(tmp_path: Path, text: str) -> inventory.Inventory:
    file = tmp_path / "inventory.toml"
    file.write_text(text)
    return inventory.read(file)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "made"
    certificates.init(folder, HOSTS)
    return folder


def test_an_inventory_has_the_machines_of_a_topology(tmp_path: Path) -> None:
    found = read(tmp_path, HEAD + table(more='device = "cuda"\n[host.data_for]\ne1 = "10.0.0.7:5700"') + ALL.split("\n\n", 1)[1])
    found.check(LAYOUT)
    assert found.hosts["d1"].device == "cuda"
    assert (found.hosts["d1"].address("e1"), found.hosts["d1"].address("c1")) == ("10.0.0.7:5700", "127.0.1.1:5700")
    assert found.secret == tmp_path / "secret"
    assert found.ca is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format = 1", "secret is missing"),
        (HEAD, "host is missing"),
        ("format = 2\n" + ALL.join(["secret = 's'\n", ""]), "this testbed reads format 1"),
        (HEAD + "secrets = 1\n" + ALL, 'unknown key secrets; did you mean "secret"?'),
        (HEAD + table(more="spede = 2"), "unknown key host 'd1'.spede"),
        (HEAD + table(tier="fog"), "host 'd1'.tier"),
        (HEAD + table() + table(number=2), "two [[host]] tables are called 'd1'"),
        (HEAD + table() + table("e1", "edge", 1), "e1.control is 127.0.1.1:5701, which is d1.control already"),
        (HEAD + table(more='[host.data_for]\nx9 = "10.0.0.7:5700"'), "d1.data_for.x9: there is no other host of that name"),
        (HEAD + table().replace("127.0.1.1:5700", "0.0.0.0:5700"), "cannot be dialled"),
        (HEAD + table().replace("127.0.1.1:5700", "nowhere"), "is not an address"),
        (HEAD + 'ca = "ca.pem"\n' + ALL, "ca, certificate and key go together; only ca is there"),
        (HEAD + 'links = "shaped"\n' + table() + table("e1", "edge", 1).replace(":57", ":67"), "cannot be shaped apart"),
        (HEAD + 'links = "tight"\n' + ALL, "links"),
        (HEAD + table("a b"), "host 'a b'"),
        ("= 1", "not valid TOML"),
    ],
)
def test_a_mistake_in_an_inventory_is_named_with_file_and_host(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "inventory.toml"))
    assert caught.value.exit_code == 2


def test_hosts_that_a_topology_needs_and_tiers_that_differ_are_named(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="no \\[\\[host\\]\\] for 'c1' \\(cloud\\)"):
        read(tmp_path, HEAD + table() + table("e1", "edge", 2)).check(LAYOUT)
    with pytest.raises(InventoryError, match="c1 is of tier edge here and of tier cloud in the topology"):
        read(tmp_path, HEAD + table() + table("e1", "edge", 2) + table("c1", "edge", 3)).check(LAYOUT)
    with pytest.raises(InventoryError, match="needs shaping = true for d1, e1, c1"):
        read(tmp_path, HEAD + 'links = "shaped"\n' + ALL).check(LAYOUT)


def test_a_secret_must_be_there_and_long_enough(tmp_path: Path) -> None:
    found = read(tmp_path, HEAD + ALL)
    with pytest.raises(InventoryError, match="No such file"):
        found.read_secret()
    (tmp_path / "secret").write_bytes(b"short\n")
    with pytest.raises(InventoryError, match="5 bytes"):
        found.read_secret()


def test_certificates_are_for_names_and_addresses_and_for_their_owner_alone(lab: Path) -> None:
    assert certificates.names_of(lab / "e1.pem") == ["e1", "127.0.1.2", "edge.lab"]
    assert 396 < certificates.days_left(lab / "e1.pem") <= 397
    for path in lab.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for name in ("orchestrator", *HOSTS):
        Tls.load(lab / "ca.pem", lab / f"{name}.pem", lab / f"{name}.key")


def test_the_orchestrators_certificate_alone_says_so_and_is_good_for_dialling_only(lab: Path) -> None:
    assert certificates.names_of(lab / "orchestrator.pem") == ["orchestrator", ROLE]
    for name in ("orchestrator", *HOSTS):
        made = x509.load_pem_x509_certificate((lab / f"{name}.pem").read_bytes())
        uses = set(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        orders = name == "orchestrator"
        assert (ROLE in certificates.names_of(lab / f"{name}.pem")) is orders
        assert (ExtendedKeyUsageOID.SERVER_AUTH in uses) is not orders
        assert ExtendedKeyUsageOID.CLIENT_AUTH in uses


def test_the_authority_is_no_hosts_and_hosts_are_no_authorities(lab: Path) -> None:
    loaded = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loaded.load_verify_locations(lab / "ca.pem")
    assert len(loaded.get_ca_certs()) == 1
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(lab / "e1.pem")
    assert bare.get_ca_certs() == []


def test_nothing_is_overwritten(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in lab.iterdir()}
    with pytest.raises(InputError, match="nothing is overwritten"):
        certificates.init(lab, HOSTS)
    assert main(["hosts", "init", str(lab), "--host", "d1=127.0.1.1"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in lab.iterdir()} == before


def test_renewing_keeps_the_authority_and_puts_old_certificates_aside(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    assert main(["hosts", "init", str(folder), "--host", "d1=127.0.1.1", "--host", "e1=127.0.1.2"]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["hosts", "init", str(folder), "--host", "e1=127.0.1.9", "--renew", "--days", "10"]) == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {
        "e1.pem",
        "e1.key",
        "orchestrator.pem",
        "orchestrator.key",
    }
    assert sorted(before[name] for name in ("e1.pem", "e1.key")) == sorted(
        data for name, data in after.items() if name.startswith("e1.") and name.count(".") == 2
    )
    assert certificates.names_of(folder / "e1.pem") == ["e1", "127.0.1.9"]
    assert 9 < certificates.days_left(folder / "e1.pem") <= 10
    Tls.load(folder / "ca.pem", folder / "e1.pem", folder / "e1.key")
    inventory.read(folder / "inventory.toml").read_secret()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("d1", "give NAME=ADDRESS"),
        ("lab4=10.0.0.4", "which tier?"),
        ("lab4:fog=10.0.0.4", "which tier?"),
        ("orchestrator:edge=10.0.0.4", "is taken"),
        ("e1=10.0.0.4;rm", "is no address"),
        ("../e1=10.0.0.4", "give NAME=ADDRESS"),
    ],
)
def test_hosts_on_the_command_line_are_checked(
    given: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hosts", "init", str(tmp_path / "lab"), "--host", given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_a_skeleton_is_an_inventory_and_settings_that_serve_understands(tmp_path: Path) -> None:
    hosts = [skeleton.parse("d1=127.0.1.1"), skeleton.parse("e1=fe80::2"), skeleton.parse("lab4:cloud=10.0.0.4,10.1.0.4")]
    found = read(tmp_path, skeleton.inventory(hosts))
    assert found.hosts["e1"].data == "[fe80::2]:5700"
    assert {host.tier for host in found.hosts.values()} == {"device", "edge", "cloud"}
    settings = dict(line.split("=", 1) for line in skeleton.environment(hosts[2], ["alexnet"]).splitlines() if line[0] != "#")
    assert settings == {
        "D3NODE_NAME": "lab4",
        "D3NODE_TIER": "cloud",
        "D3NODE_LISTEN": "10.0.0.4:5700",
        "D3NODE_CONTROL": "10.0.0.4:5701",
        "D3NODE_OPTIONS": "--model alexnet",
    }
