"""An inventory: which machine is which host of a topology, where its agent listens, and what its operator allows.

A TOML file, read strictly; paths in it are relative to its folder. Secrets and keys are files that it names, never its text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from d3node.errors import ChannelError
from d3node.plan import Tier
from d3node.tcp import split_address
from testbed.errors import InventoryError
from testbed.names import suggestion
from topologies.layout import Layout

FORMAT = 1
SECRET_BYTES = 16


def _address(value: str) -> str:
    try:
        host, port = split_address(value)
    except ChannelError as error:
        raise ValueError(str(error)) from error
    if host in ("0.0.0.0", "::") or port == 0:
        raise ValueError(f"{value!r} cannot be dialled: give the machine's address and a port from 1 to 65535")
    return value


Address = Annotated[str, AfterValidator(_address)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Table):
    """`[[host]]`: one machine. `data_for`: other addresses of its data plane, by the host that dials them."""

    name: str
    tier: Tier
    control: Address
    data: Address
    data_for: dict[str, Address] = Field(default_factory=dict)
    device: Literal["cpu", "cuda"] = "cpu"
    shaping: bool = False

    def address(self, peer: str) -> str:
        """Where `peer` reaches its data plane."""
        return self.data_for.get(peer, self.data)


class _File(_Table):
    format: int
    secret: str
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    links: Literal["real", "shaped"] = "real"
    host: tuple[Machine, ...] = Field(min_length=1)


class Inventory(BaseModel):
    """A file that was read. `ca`, `certificate`, `key`: the orchestrator's own, or None without TLS. `links`: "real" as they are,
    or "shaped" by the agents into what the scenario says."""

    model_config = ConfigDict(frozen=True)

    path: Path
    secret: Path
    ca: Path | None
    certificate: Path | None
    key: Path | None
    links: Literal["real", "shaped"]
    hosts: Mapping[str, Machine]

    def check(self, layout: Layout) -> None:
        """Raise InventoryError unless it has a machine of the right tier for every host of a topology."""
        problems = []
        for host in layout.hosts:
            machine = self.hosts.get(host.name)
            if machine is None:
                problems.append(
                    f'{self.path}: no [[host]] for {host.name!r} ({host.tier}) of topology "{layout.name}"'
                    f"{suggestion(host.name, self.hosts, 'it has')}"
                )
            elif machine.tier != host.tier:
                problems.append(
                    f"{self.path}: {host.name} is of tier {machine.tier} here and of tier {host.tier} in the topology"
                )
        if self.links == "shaped":
            lacking = [host.name for host in layout.hosts if host.name in self.hosts and not self.hosts[host.name].shaping]
            if lacking:
                problems.append(
                    f'{self.path}: links = "shaped" needs shaping = true for {", ".join(lacking)}, and their agents started with'
                    ' --allow-shaping INTERFACE; or take links = "real"'
                )
        if problems:
            raise InventoryError("\n".join(problems))

    def read_secret(self) -> bytes:
        """The run's secret. Raises InventoryError."""
        try:
            secret = self.secret.read_bytes().strip()
        except OSError as error:
            raise InventoryError(f"{self.path}: secret {self.secret}: {error.strerror}") from error
        if len(secret) < SECRET_BYTES:
            raise InventoryError(f"{self.path}: secret {self.secret}: {len(secret)} bytes; a secret has {SECRET_BYTES} or more")
        return secret


def read(path: Path | str) -> Inventory:
    """Read an inventory file. Raises InventoryError with every mistake in it."""
    file = Path(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError(f"{file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InventoryError(f"{file}: not valid TOML: {error}") from error
    try:
        parsed = _File.model_validate(raw)
    except ValidationError as error:
        raise InventoryError("\n".join(dict.fromkeys(_sentences(file, raw, error)))) from None
    problems = [f"{file}: {text}" for text in _problems(parsed)]
    if problems:
        raise InventoryError("\n".join(problems))
    folder = file.resolve().parent
    tls = {name: None if value is None else folder / value for name, value in _tls(parsed).items()}
    return Inventory(
        path=file,
        secret=folder / parsed.secret,
        links=parsed.links,
        hosts={machine.name: machine for machine in parsed.host},
        **tls,
    )


def _tls(parsed: _File) -> dict[str, str | None]:
    return {"ca": parsed.ca, "certificate": parsed.certificate, "key": parsed.key}


def _problems(parsed: _File) -> Iterator[str]:
    if parsed.format != FORMAT:
        yield f"format {parsed.format}: this testbed reads format {FORMAT}"
    given = [name for name, value in _tls(parsed).items() if value is not None]
    if given and len(given) < 3:
        yield f"ca, certificate and key go together; only {', '.join(given)} is there"
    names: set[str] = set()
    taken: dict[str, str] = {}
    machines: dict[str, str] = {}
    for machine in parsed.host:
        if machine.name in names:
            yield f"two [[host]] tables are called {machine.name!r}"
        names.add(machine.name)
        own = {"control": machine.control, "data": machine.data}
        own |= {f"data_for.{peer}": address for peer, address in machine.data_for.items() if address != machine.data}
        for what, address in own.items():
            if address in taken:
                yield f"{machine.name}.{what} is {address}, which is {taken[address]} already"
            taken.setdefault(address, f"{machine.name}.{what}")
        if parsed.links == "shaped":
            for address in {machine.data, *machine.data_for.values()}:
                place, _ = split_address(address)
                if machines.setdefault(place, machine.name) != machine.name:
                    yield f"{machine.name} and {machines[place]} share the address {place}: their traffic cannot be shaped apart"
        if not _plain(machine.name):
            yield f"host {machine.name!r}: a letter, then letters, digits, '-', '_' or '.'"
    for machine in parsed.host:
        for peer in machine.data_for:
            if peer not in names or peer == machine.name:
                yield f"{machine.name}.data_for.{peer}: there is no other host of that name{suggestion(peer, names, 'hosts')}"


def _plain(name: str) -> bool:
    return name[:1].isalpha() and all(c.isalnum() or c in "-_." for c in name) and name.isascii()


def _sentences(file: Path, raw: dict[str, object], error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = [str(part) for part in item["loc"]]
        where = ".".join(place)
        if place[0] == "host" and len(place) > 1 and isinstance(item["loc"][1], int):
            table = raw["host"][item["loc"][1]] if isinstance(raw["host"], list) else {}
            name = table.get("name") if isinstance(table, dict) else None
            where = ".".join([f"host {name!r}" if name else f"host {item['loc'][1] + 1}", *place[2:]])
        if item["type"] == "extra_forbidden":
            known = Machine.model_fields if place[0] == "host" else _File.model_fields
            yield f"{file}: unknown key {where}{suggestion(place[-1], known, 'known keys')}"
        elif item["type"] == "missing":
            yield f"{file}: {where} is missing"
        else:
            got = "" if isinstance(item["input"], dict | list) else f" (got {item['input']!r})"
            yield f"{file}: {where}: {item['msg'].removeprefix('Value error, ')}{got}"
