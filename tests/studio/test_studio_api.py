"""The named endpoints through Gradio's own client, as a program uses them."""

import json
import shlex
import shutil
import urllib.error
import urllib.request

import httpx
import numpy as np
import pytest
from PIL import Image

import clearclip
from studio_clients import run_clients

gradio_client = pytest.importorskip("gradio_client")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

LABELS = ["sky", "grass=lawn|meadow", "house @#ff0000"]


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return gradio_client.Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture
def image(photo):
    return photo(height=96, width=120)


@pytest.fixture(scope="module")
def library():
    return clearclip.load("tiny", device="cpu", method="clearclip")


def ask(client, name, image=None, **settings):
    given = {} if image is None else {"image": gradio_client.handle_file(image)}
    return client.predict(**given, **settings, api_name=f"/{name}")


def test_endpoints_are_named_and_nothing_else_is(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    names = {"models", "segment", "export", "ranking", "heatmap", "compare", "inspect", "search"}
    assert set(endpoints["named_endpoints"]) == {f"/{name}" for name in names}
    assert not endpoints["unnamed_endpoints"]


def test_models(client):
    answer = ask(client, "models")
    assert answer["models"] == ["tiny", "twin"]
    assert answer["limits"]["pixels"] == 1_000_000


def test_segment(client, image, library):
    answer, path = ask(client, "segment", image, labels=LABELS, threshold=0.4)
    expected = library(Image.open(image), LABELS, threshold=0.4)
    assert np.array_equal(np.asarray(Image.open(path)), expected.label_map)
    assert [entry["name"] for entry in answer["labels"]] == list(expected.labels)
    assert answer["labels"][3]["color"] == "#ff0000"
    assert answer["made"]["method"] == "clearclip"


def test_export(client, image, library):
    answer, paths = ask(client, "export", image, labels=LABELS)
    assert [path.rpartition(".")[2] for path in paths] == ["png", "png", "json"]
    assert np.array_equal(np.asarray(Image.open(paths[0])), library(Image.open(image), LABELS).label_map)
    with open(paths[2]) as file:  # noqa: PTH123
        assert json.load(file)["labels"][1]["name"] == "grass"
    assert shlex.split(answer["command"])[:3] == ["clearclip", "segment", "photo.png"]
    assert "clearclip.load('tiny'" in answer["python"]


def test_ranking(client, image, library):
    answer = ask(client, "ranking", image, labels=LABELS, x=7, y=90)
    expected = library(Image.open(image), LABELS).ranking(90, 7)
    assert [row["label"] for row in answer] == [name for name, _ in expected]
    assert [row["probability"] for row in answer] == pytest.approx([value for _, value in expected], abs=1e-5)


def test_heatmap(client, image, library):
    answer, path = ask(client, "heatmap", image, labels=LABELS, label="grass")
    expected = library(Image.open(image), LABELS).probabilities("grass")
    assert np.asarray(Image.open(path)) / 65535 == pytest.approx(expected, abs=1e-4)
    assert answer["highest"] == pytest.approx(expected.max(), abs=1e-5)


def test_what_stands_beside_a_label_alone_is_told(client, image):
    answer, _ = ask(client, "segment", image, labels=["person"])
    assert [entry["name"] for entry in answer["labels"]] == ["background", "person"]
    assert answer["notes"][0].startswith("The background is 25 words: sky, wall, ")
    answer, _ = ask(client, "segment", image, labels=[*LABELS, "umbrella"], presence="weak:1")
    assert any(entry.get("absent", "").startswith("its best probability") for entry in answer["labels"])
    assert answer["notes"][0].startswith("Did not compete: ")


def test_compare(client, image):
    answer, paths = ask(client, "compare", image, labels=LABELS, methods=["vanilla", "gem"])
    assert list(answer["shares"]) == ["vanilla", "gem"]
    assert len(paths) == 2
    assert sum(answer["shares"]["vanilla"].values()) == pytest.approx(1)


def test_inspect(client, image):
    answer = ask(client, "inspect", image)
    assert len(answer["statistics"]) == 12 * 3
    assert {"norm", "peak_channel", "entropy"} <= set(answer["statistics"][-1])


def test_search(client, image):
    answer = ask(client, "search", image, words=["sky", "moon", "boat"])
    assert sum(row["share"] for row in answer) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": []}, "no label yet"),
        ({"labels": ["a"] * 17}, "17 labels: at most 16"),
        ({"labels": {"sky": 1}}, "labels are a dict"),
        ({"labels": LABELS, "model": "clip-b16"}, "model 'clip-b16' is not allowed here"),
        ({"labels": LABELS, "model": "local-dir:/etc"}, "is not allowed here"),
        ({"labels": LABELS, "device": "meta"}, "device 'meta' is not allowed here"),
        ({"labels": LABELS, "method": "clearclap"}, "did you mean 'clearclip'"),
        ({"labels": LABELS, "threshold": 7}, "probability from 0 to 1"),
        ({"labels": LABELS, "templates": ["no place"]}, "exactly one {}"),
    ],
)
def test_refusals_are_one_sentence(client, image, settings, message):
    with pytest.raises(gradio_client.exceptions.AppError, match=message.replace("{", r"\{")) as caught:
        ask(client, "segment", image, **settings)
    assert "Traceback" not in str(caught.value)


def test_images_over_the_limits(client, server, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (1001, 1000)).save(large)
    with pytest.raises(gradio_client.exceptions.AppError, match="more than the limit of 1,000,000"):
        ask(client, "segment", large, labels=LABELS)
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(bytes(2_000_001))
    with pytest.raises(gradio_client.exceptions.AppError, match=r"heavy.png has 2,000,001 bytes, more than the limit"):
        ask(client, "segment", heavy, labels=LABELS)
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("heavier.png", bytes(4_100_000))})
    assert answer.status_code == 413


def test_files_of_the_server_are_out_of_reach(server, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
        urllib.request.urlopen(f"{server.url}gradio_api/file={secret}")
    body = {
        "data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}, ["sky"], "tiny", "clearclip", 0, "", [],
                 "cpu", "none"],
    }  # fmt: skip
    request = urllib.request.Request(
        f"{server.url}gradio_api/call/segment", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{server.url}gradio_api/call/segment/{event}") as answer:
        text = answer.read().decode()
    assert "event: error" in text
    assert "labels" not in text


def test_many_clients_each_get_their_own_answer(server, tmp_path):
    report = run_clients(server.url, folder=tmp_path, clients=6, seconds=6, seed=3)
    assert report.answers >= 6
    assert report.wrong == []
    assert report.lost == []
    shutil.rmtree(tmp_path)
