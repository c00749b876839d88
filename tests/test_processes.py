"""Real processes that train together end where one process with larger batches ends, also after a kill."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import process_task
import pytest
import torch
from safetensors.torch import load_file

from telme.training import cli
from telme.training.errors import TrainingError
from telme.training.loop import KEPT, STATE, own_batches
from telme.training.processes import launched, together

TASK = Path(process_task.__file__)
ROOT = TASK.parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(*arguments: str | Path, number: int, port: int, count: int = 2) -> subprocess.Popen[str]:
    """One process as a launcher starts it."""
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told = {name: str(value) for name, value in place.items()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **told}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def run_both(*arguments: str | Path) -> list[tuple[int, str]]:
    """Exit code and stderr of two processes; when the second has died the first is killed, as launchers do."""
    port = free_port()
    both = [start(*arguments, number=number, port=port) for number in range(2)]
    try:
        if both[1].wait(240) == 0:
            both[0].wait(240)
    finally:
        for process in both:
            process.kill()
    return [(process.wait(240), process.stderr.read() if process.stderr else "") for process in both]


def assert_close(folder: Path, other: Path) -> None:
    for name in (KEPT, STATE):
        one, two = load_file(folder / name), load_file(other / name)
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes with batches of two."""
    folder = tmp_path_factory.mktemp("pair")
    both = run_both(TASK, folder)
    assert [code for code, _ in both] == [0, 0], both
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("size", "accumulation"), [(4, 1), (2, 2)])
def test_two_processes_are_one_with_twice_the_batch(pair: Path, tmp_path: Path, size: int, accumulation: int) -> None:
    """Twice the batch, or twice the accumulation. The eleventh batch of an epoch has no partner."""
    process_task.train(tmp_path, size, accumulation)
    # The identity of the run, which the state also holds, is no tensor: weights and moments are compared.
    assert_close(pair, tmp_path)


@pytest.mark.slow
def test_each_process_makes_its_own_batches_and_the_main_one_evaluates(pair: Path) -> None:
    evaluated, *made = (pair / "process-0.txt").read_text().split()
    assert (int(evaluated), list(map(int, made))) == (3, 3 * [0, 2, 4, 6, 8, 10])
    evaluated, *made = (pair / "process-1.txt").read_text().split()
    assert (int(evaluated), list(map(int, made))) == (0, 3 * [1, 3, 5, 7, 9])


@pytest.mark.slow
def test_after_a_kill_they_end_in_the_same_weights(pair: Path, tmp_path: Path) -> None:
    (killed, _), (died, _) = run_both(TASK, tmp_path, "--kill-in", "1")
    assert died == -9
    assert killed != 0
    assert [code for code, _ in run_both(TASK, tmp_path)] == [0, 0]
    one, two = load_file(pair / STATE), load_file(tmp_path / STATE)
    assert all(torch.equal(one[key], two[key]) for key in one.keys() | two.keys())


@pytest.mark.slow
def test_a_run_of_two_is_not_continued_by_one(pair: Path) -> None:
    with pytest.raises(TrainingError, match="another number of processes"):
        process_task.train(pair, 2, 1)


@pytest.mark.slow
def test_the_launchers_start_the_command(tmp_path: Path) -> None:
    """torchrun starts telme-train, whose processes find one another: both complain of the same configuration."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    config = tmp_path / "config.yaml"
    config.write_text("name: x\nteacher: {backbone: b, schedule: {epochs: 1, batch: 1, learning_rate: 1}}")
    command = [*launcher, "-m", "telme.training.cli", str(config), "--stage", "teacher", "--corpora", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert ended.returncode != 0
    assert ended.stderr.count("telme-train: ") == 2
    assert "train_sent_emo.csv" in ended.stderr


def test_without_a_launcher_there_is_one_process() -> None:
    alone = together()
    assert (alone.number, alone.count, alone.main) == (0, 1, True)
    assert alone.told("x") == "x"
    assert alone.total(0.25) == 0.25
    with alone.one_first():
        pass


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_batch_belongs_to_one_process(count: int) -> None:
    batches = list(range(11))
    shares: Sequence[list[int]] = [list(own_batches(batches, number, count)) for number in range(count)]
    assert sorted(chain(*shares)) == batches
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def test_a_launcher_says_who_is_who() -> None:
    place = launched(WHOLE)
    assert place is not None
    assert (place.number, place.local, place.count, place.address) == (1, 1, 2, "10.0.0.1:29500")
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "1", "RANK": "0"}) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"MASTER_ADDR": None}, "LOCAL_RANK is set, but not MASTER_ADDR"),
        ({"LOCAL_RANK": None, "MASTER_PORT": ""}, "WORLD_SIZE is set, but not LOCAL_RANK, MASTER_PORT"),
        ({"RANK": "one"}, "RANK is 'one', which is no number"),
        ({"RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({**dict.fromkeys(WHOLE), "PMI_SIZE": "4"}, "MPI has started 4 processes"),
    ],
)
def test_a_broken_environment_is_one_sentence(changes: dict[str, str | None], complaint: str) -> None:
    environment = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    with pytest.raises(TrainingError, match=complaint) as caught:
        launched(environment)
    assert "accelerate launch" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_says_that_the_environment_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    together.cache_clear()
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = tmp_path / "config.yaml"
    config.write_text("name: x\nteacher: {backbone: b, schedule: {epochs: 1, batch: 1, learning_rate: 1}}")
    assert cli.main([str(config), "--stage", "teacher"]) == 2
    error = capsys.readouterr().err
    assert "telme-train: The launcher's environment is incomplete" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_processes_that_cannot_meet_say_so(tmp_path: Path) -> None:
    """Their port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(TASK, tmp_path, number=0, port=taken.getsockname()[1])
        assert process.wait(240) == 1
        assert process.stderr is not None
        last = process.stderr.read().strip().splitlines()[-1]
    assert "The 2 processes cannot reach one another at 127.0.0.1:" in last
