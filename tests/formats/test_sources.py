import pytest

from harness.errors import HarnessError
from harness.formats.sources import check_sum, file_sums, locate, pins, total_sum
from harness.io import sha256_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def snapshot(folder, asked):
    def download(repository, **options):
        asked.append((repository, options))
        return str(folder)

    return download


def never(*_, **__):
    pytest.fail("it went to the Hub")


def test_a_path_here_comes_first(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    source = locate("owner/name", download=never)
    assert (str(source.path), source.revision) == ("owner/name", None)
    with pytest.raises(HarnessError, match="--revision main: a file or folder here has no revision"):
        locate("owner/name", "main", never)


def test_a_repository_and_its_commit(tmp_path):
    folder, asked = tmp_path / "snapshots" / COMMIT, []
    folder.mkdir(parents=True)
    source = locate("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "main", snapshot(folder, asked))
    assert (source.path, source.revision) == (folder, COMMIT)
    ((repository, options),) = asked
    assert (repository, options["revision"]) == ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "main")
    assert "*.safetensors" in options["allow_patterns"]
    assert not any(pattern in ("*.pth", "*.pt", "*.bin") for pattern in options["allow_patterns"])


def test_a_file_of_a_repository(tmp_path):
    folder, asked = tmp_path / COMMIT, []
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/dmd.pt").touch()
    source = locate("gdhe17/Self-Forcing/checkpoints/dmd.pt", None, snapshot(folder, asked))
    assert source.path == folder / "checkpoints/dmd.pt"
    assert asked == [("gdhe17/Self-Forcing", {"revision": None, "allow_patterns": ["checkpoints/dmd.pt"]})]
    with pytest.raises(HarnessError, match=r"gdhe17/Self-Forcing has no file checkpoints/other\.pt"):
        locate("gdhe17/Self-Forcing/checkpoints/other.pt", None, snapshot(folder, asked))


@pytest.mark.parametrize("error", [OSError("no network\nmore"), ValueError("bad revision"), ConnectionError("refused")])
def test_a_failed_download_is_one_message(error):
    def download(*_, **__):
        raise error

    with pytest.raises(HarnessError, match="fetching it from the Hugging Face Hub failed") as found:
        locate("owner/name", None, download)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["nothing", "./no/such", "/no/such/file.pt", "../a/b", "a b/c"])
def test_what_cannot_be_a_repository_is_not_asked_for(name):
    with pytest.raises(HarnessError, match="no such file or folder, and no Hub id"):
        locate(name, download=never)


def test_sums(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    one = file_sums([tmp_path / "a"], tmp_path)
    two = file_sums([tmp_path / "b", tmp_path / "a"], tmp_path)
    assert total_sum(one) == sha256_file(tmp_path / "a")
    assert list(two) == ["a", "b"]
    assert total_sum(two) not in two.values()
    assert total_sum(two) != total_sum({**two, "b": two["a"]})
    check_sum(two, total_sum(two), "it")
    check_sum(two, None, "it")
    with pytest.raises(HarnessError, match=rf"{two['b']}  b"):
        check_sum(two, total_sum(one), "it")


def test_pins_cover_the_source_and_the_adapter():
    origin = {"revision": None, "files": {"a.pt": "11"}, "lora": None}
    assert pins(origin) == ["--sha256", "11"]
    lora = {"revision": COMMIT, "files": {"b.pt": "22"}}
    wanted = ["--revision", "main", "--sha256", "11", "--lora-revision", COMMIT, "--lora-sha256", "22"]
    assert pins({**origin, "revision": "main", "lora": lora}) == wanted
