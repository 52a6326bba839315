"""What of the cluster needs no Kafka: counting rebalances by the brokers' logs, settings, ports."""

from __future__ import annotations

import itertools
from pathlib import Path

from handrail_chaos.cluster import Generations, replicated
from handrail_chaos.ports import FIRST, LAST, steady_ports
from handrail_chaos.run import lives, storm_seconds

LINE = "2026-11-21T14:58:30.396Z INFO  GroupMetadataManager [Coordinator] Stabilized group {} generation {} with 1 members\n"


def test_generations_after_a_groups_first_are_rebalances(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    log.write_text("".join(LINE.format(group, number) for group, number in [("a", 1), ("a", 2), ("b", 1), ("a", 4)]))
    generations = Generations(iter([log]))
    assert generations.count() == 2
    assert generations.by_group() == {"a": 2, "b": 0}


def test_a_line_that_is_not_written_to_its_end_is_read_later_and_a_new_file_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    generations = Generations(iter([log]))
    assert generations.count() == 0
    line = LINE.format("a", 1) + LINE.format("a", 2)
    log.write_text(line[:-30])
    assert generations.count() == 0
    log.write_text(line)
    assert generations.count() == 1
    log.write_text(LINE.format("a", 3))  # put aside and begun anew
    assert generations.count() == 2


def test_the_same_generation_in_the_logs_of_two_brokers_counts_once(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("one.log", "two.log")]
    for log in logs:
        log.write_text(LINE.format("a", 1) + LINE.format("a", 2))
    assert Generations(iter(logs)).count() == 1


def test_three_brokers_keep_everything_three_times_and_two_must_have_it() -> None:
    assert replicated(1) == {}
    settings = replicated(3)
    assert {settings[name] for name in settings if name.endswith("replication.factor")} == {3}
    assert {settings[name] for name in settings if name.endswith(("min.insync.replicas", "min.isr"))} == {2}


def test_ports_are_below_those_of_outgoing_connections_and_all_different() -> None:
    ports = list(itertools.islice(steady_ports(), 20))
    assert len(set(ports)) == 20
    assert all(FIRST <= port <= LAST for port in ports)


def test_a_short_run_leaves_time_to_heal_and_a_service_with_more_points_lives_shorter() -> None:
    assert storm_seconds(4.0) < 4 * 60 - 60
    assert storm_seconds(0.5) == 20.0
    found = lives(155.0)
    assert found["recovery"] < found["action"] <= found["ingest"]
    assert lives(3_500.0)["ingest"] > 20.0
