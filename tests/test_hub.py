"""Bundles on a model hub: the real client against a hub on loopback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_gpu
import fake_hub
import huggingface_hub.constants
import pytest
import yaml
from brokers import free_port
from fake_hub import Hub, Repository
from full_disk import files_of_at_most
from streams import ACTED, ASR, command, environment

from export.errors import ExportError
from export.push import push
from export.push_cli import main
from telme.bundle import COMPACT, MANIFEST, Bundle, BundleError, Engine, UnfitError, sha256_of
from telme.features.text import Turn
from telme.hub import HubAddress, open_bundle
from telme.runtime import fit
from telme.runtime.recognizer import Recognizer

NAME = "hf://anna/compact"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, and an empty cache of the client's."""
    with fake_hub.serving() as serving:
        set_up(monkeypatch, serving.address, tmp_path / "cache")
        yield serving


def set_up(patch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """What HF_ENDPOINT, HF_HUB_CACHE and so on do in a new process; the client reads them when it is imported."""
    constants = huggingface_hub.constants
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a storage service of its own, which the fake hub has not
    patch.delenv("HF_TOKEN", raising=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that ships with a few kB instead of each model: whole, and never run."""
    folder = Path(shutil.copytree(COMPACT, tmp_path_factory.mktemp("bundles") / "small"))
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, part in manifest["parts"].items():
        (folder / part["file"]).write_bytes(10_000 * name[:1].encode())
        part.update(sha256=sha256_of(folder / part["file"]), bytes=10_000)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def pushed(hub: Hub, small: Path) -> Repository:
    """A bundle on the hub, among files that are none of its own."""
    repository = hub.repositories["anna/compact"] = Repository()
    repository.commit({**content(small), "README.md": b"# compact", "optimizer.pt": bytes(1000)})
    return repository


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)


def refused(source: str | Path) -> str:
    """The sentence with which a bundle is refused."""
    with pytest.raises(BundleError) as refusal:
        open_bundle(source)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_bundle_is_pulled_by_name(hub: Hub, pushed: Repository) -> None:
    pushed.commit(content(COMPACT))
    recognizer = Recognizer.load(NAME)
    assert recognizer.bundle.sha256 == Bundle.open(COMPACT).sha256
    assert recognizer.recognize(text=[Turn("a", "I got the job!")]).emotion in recognizer.bundle.manifest.labels
    assert not any("optimizer.pt" in asked for asked in hub.asked)


def test_engines_from_a_hub_are_rebuilt_beside_the_cache(pushed: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(NAME)
    assert bundle.address == NAME
    parts = bundle.manifest.parts
    engine = Engine(
        version="1.0",
        gpu=None,
        compute_capabilities=("8.9",),
        profiles=({},),
        onnx_sha256=bundle.manifest.parts.text.sha256,
    )
    text = parts.text.model_copy(update={"backend": "tensorrt-rtx", "engine": engine})
    manifest = bundle.manifest.model_copy(update={"parts": parts.model_copy(update={"text": text})})
    fake_gpu.install(monkeypatch)
    with pytest.raises(UnfitError, match=" --output bundles/compact "):
        fit.demand(Bundle(bundle.folder, manifest, bundle.sha256, bundle.address))


def test_what_is_cached_is_not_fetched_again(hub: Hub, pushed: Repository) -> None:
    folder = open_bundle(NAME).folder
    hub.asked.clear()
    assert open_bundle(NAME).folder == folder
    assert hub.asked == [f"HEAD /anna/compact/resolve/main/{MANIFEST}"]


def test_a_cached_bundle_opens_without_network(
    hub: Hub, pushed: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_bundle(NAME).folder
    set_up(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path / "cache")
    assert open_bundle(NAME).folder == folder
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert open_bundle(NAME).folder == folder


def test_a_revision_stays_what_it_was(pushed: Repository, small: Path) -> None:
    first = pushed.head()
    pushed.tags["v1"] = first
    sha256 = open_bundle(NAME).sha256
    pushed.commit({MANIFEST: (small / MANIFEST).read_bytes() + b" "})
    assert open_bundle(NAME).sha256 != sha256
    assert open_bundle(f"{NAME}@v1").sha256 == open_bundle(f"{NAME}@{first}").sha256 == sha256


def test_another_bundle_than_asked_for_is_refused(hub: Hub, pushed: Repository, small: Path) -> None:
    sha256 = Bundle.open(small).sha256
    assert open_bundle(f"{NAME}@main#sha256={sha256}").sha256 == sha256
    message = refused(f"{NAME}#sha256={'0' * 64}")
    assert "is not the bundle that was asked for" in message
    assert sha256 in message


@pytest.mark.parametrize(
    "text", ["hf://compact", "hf://a/b/c", "hf://a/b@", "hf://a/b#sha256=12", "hf://../..", "hf://", "hf://a/b c"]
)
def test_an_address_of_another_form(text: str) -> None:
    assert "write hf://ORGANISATION/NAME" in refused(text)


def test_no_such_repository(hub: Hub, token: None) -> None:
    assert "has no anna/compact, or it is private; correct the name" in refused(NAME)


def test_a_private_repository_needs_a_token(pushed: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed.private = True
    assert "run `hf auth login`" in refused(NAME)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    assert open_bundle(NAME).manifest.name == "compact"


def test_a_gated_repository(pushed: Repository, small: Path) -> None:
    pushed.gated = True
    assert "ask for access" in refused(NAME)


def test_no_such_revision(pushed: Repository, small: Path) -> None:
    assert "anna/compact has no revision v9" in refused(f"{NAME}@v9")


def test_a_repository_that_is_no_bundle(hub: Hub) -> None:
    hub.repositories["anna/compact"] = Repository()
    hub.repositories["anna/compact"].commit({"model.safetensors": bytes(10)})
    assert "is not a bundle" in refused(NAME)


def test_a_manifest_that_is_none(pushed: Repository, small: Path) -> None:
    pushed.commit({MANIFEST: b"{}"})
    message = refused(NAME)
    assert "is not a valid manifest" in message
    assert "push anna/compact again" in message


def test_a_file_that_the_repository_lacks(pushed: Repository, small: Path) -> None:
    del pushed.files()["fusion.onnx"]
    assert "fusion.onnx" in refused(NAME)


def test_a_file_outside_the_bundle(pushed: Repository, small: Path) -> None:
    manifest = (small / MANIFEST).read_text().replace('"tokenizer.json"', '"a/../../../tokenizer.json"')
    pushed.commit({MANIFEST: manifest.encode()})
    assert "is not a valid manifest: text.tokenizer" in refused(NAME)


def test_one_changed_byte_on_the_hub(pushed: Repository, small: Path) -> None:
    damaged = bytearray(pushed.files()["fusion.onnx"])
    damaged[1000] ^= 1
    pushed.commit({"fusion.onnx": bytes(damaged)})
    message = refused(NAME)
    assert "fusion.onnx has SHA-256" in message
    assert "push anna/compact again" in message


def test_one_changed_byte_in_the_cache(pushed: Repository, small: Path) -> None:
    bundle = open_bundle(NAME)
    part = bundle.path(bundle.manifest.parts.fusion).resolve()
    damaged = bytearray(part.read_bytes())
    damaged[1000] ^= 1
    part.write_bytes(damaged)
    message = refused(NAME)
    assert "is damaged" in message
    whole = Path(message.partition("remove ")[2].partition(" to pull it anew")[0])
    shutil.rmtree(whole)
    assert open_bundle(NAME).sha256 == bundle.sha256


def test_offline_and_not_cached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refused(NAME)
    assert "is not in the cache" in message
    assert "cannot be reached" in message


def test_no_network_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # its five retries take 23 s
    message = refused(NAME)
    assert "cannot be reached" in message
    assert "Connection refused" in message


def test_a_connection_that_breaks_leaves_no_half_file(
    hub: Hub, pushed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_after = 2000
    assert "cannot be pulled from" in refused(NAME)
    hub.cut_after = None
    assert open_bundle(NAME).manifest.name == "compact"


def test_a_disk_that_fills_up_half_way(pushed: Repository, small: Path) -> None:
    with files_of_at_most(5_000):
        message = refused(NAME)
    assert "File too large" in message
    assert open_bundle(NAME).manifest.name == "compact"


def test_without_the_client_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # type: ignore[arg-type]
    assert "pip install huggingface_hub" in refused(NAME)


@pytest.mark.usefixtures("token")
def test_what_is_pushed_is_pulled(hub: Hub, small: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(small), NAME, "--message", "First"]) == 0
    repository = hub.repositories["anna/compact"]
    assert not repository.private
    assert len(repository.commits) == 1
    files = repository.files()
    assert {name: files[name] for name in content(small)} == content(small)
    exact = f"{NAME}@{repository.head()}#sha256={Bundle.open(small).sha256}"
    assert exact in caplog.text
    assert open_bundle(exact).sha256 == Bundle.open(small).sha256


@pytest.mark.usefixtures("token")
def test_the_repository_has_a_page_that_the_hub_reads(hub: Hub, small: Path) -> None:
    push(Bundle.open(small), HubAddress.parse(NAME))
    files = hub.repositories["anna/compact"].files()
    _, front, page = files["README.md"].decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "other"
    assert b"research only" in files[about["license_link"]]
    assert about["language"] == ["de", "en"]
    assert about["pipeline_tag"] == "audio-classification"
    assert "emotion-recognition" in about["tags"]
    assert page.strip().startswith("# compact: emotion of an utterance")


@pytest.mark.usefixtures("token")
def test_a_private_bundle_stays_private(hub: Hub, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small), NAME, "--private"]) == 0
    assert hub.repositories["anna/compact"].private
    assert main([str(small), NAME, "--private"]) == 0
    hub.repositories["anna/public"] = Repository()
    assert main([str(small), "hf://anna/public", "--private"]) == 2
    assert "is a public repository" in capsys.readouterr().err
    assert hub.repositories["anna/public"].files() == {}


@pytest.mark.usefixtures("token")
def test_a_damaged_bundle_is_not_pushed(
    hub: Hub, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(small, tmp_path / "bundle")
    (folder / "visual.onnx").write_bytes(b"")
    assert main([str(folder), NAME]) == 2
    assert "visual.onnx has SHA-256" in capsys.readouterr().err
    assert hub.repositories == {}


def test_pushing_needs_a_token(hub: Hub, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small), NAME]) == 2
    message = capsys.readouterr().err
    assert "cannot be pushed to" in message
    assert "run `hf auth login` with a token" in message
    assert message.count("\n") == 1


def test_a_bundle_is_pushed_to_the_main_branch(small: Path) -> None:
    with pytest.raises(ExportError, match="write hf://anna/compact"):
        push(Bundle.open(small), HubAddress.parse(f"{NAME}@v1"))


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("file", ["README.md", "LICENSE.md", "a/../MODEL_CARD.md"])
def test_a_document_under_the_name_of_a_page_is_refused_before_anything_is_made(
    hub: Hub, small: Path, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "bundle"))
    (folder / "a").mkdir()
    (folder / file).write_text("mine")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["documents"] = [{"file": file, "sha256": sha256_of(folder / file)}]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert main([str(folder), NAME]) == 2
    message = capsys.readouterr().err
    assert "under another name" in message or "is not a valid manifest" in message
    assert hub.repositories == {}


@pytest.mark.slow
def test_a_stream_runs_a_bundle_by_name(hub: Hub, pushed: Repository, tmp_path: Path) -> None:
    pushed.commit(content(COMPACT))
    variables = {**environment(), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    arguments = command("--json", "--asr", ASR, "--media", ACTED, "--fast", "--bundle", NAME)
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=100, env=variables)
    assert ended.returncode == 0, ended.stderr
    assert Bundle.open(COMPACT).sha256 in ended.stdout
    unknown = [*arguments[:-1], "hf://anna/other"]
    ended = subprocess.run(unknown, capture_output=True, text=True, timeout=100, env=variables)
    assert ended.returncode == 2, ended.stderr
    assert "has no anna/other" in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_bundle_by_name_needs_no_torch(hub: Hub, pushed: Repository, tmp_path: Path) -> None:
    pushed.commit(content(COMPACT))
    program = (
        "import sys; from telme.runtime.recognizer import Recognizer; "
        f"Recognizer.load({NAME!r}); print({{'torch', 'transformers'}} & set(sys.modules))"
    )
    variables = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=variables)
    assert ended.stdout.strip() == "set()", ended.stderr
