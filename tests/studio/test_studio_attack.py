"""The studio as an attacker meets it: over HTTP and in a browser, against a server of its own."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.datastructures import Headers

from clearclip.errors import UsageError
from clearclip.service.files import FOLDER_PREFIX, Files, work_folder
from clearclip.service.gate import GUESSES
from clearclip.service.hosts import Hosts
from clearclip.service.request import Limits
from studio_process import free_port, start, stop

SECRET = b"root of all secrets"
META = {"meta": {"_type": "gradio.FileData"}}
JUNK = (None, True, -1, 1e308, 10**400, "", "x\ud800", "\0", [], [[]], {}, {"a": [{}]}, ["a", 3, None], [["b"]])
JUNK += ({"__type__": "update", "value": "x", "visible": True}, {"name": {}, "synonyms": 3}, [{"name": [], "color": 5}])
JUNK += ([{"name": "a", "synonyms": {"b": 1}}],)


@pytest.fixture(scope="module")
def web(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def config(web):
    return web.get("config").json()


@pytest.fixture(scope="module")
def own(web):
    """An image that this visitor uploaded, as Gradio's clients name it."""
    return {"path": upload(web, "own.png", png()), **META}


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    return path


def png(side=64):
    with tempfile.SpooledTemporaryFile() as file:
        Image.effect_noise((side, side), 50).convert("RGB").save(file, "PNG")
        file.seek(0)
        return file.read()


def upload(web, name, data):
    answer = web.post("gradio_api/upload", files={"files": (name, data)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def call(web, dependency, data, event_data=None):
    """What a function answers to these inputs, as Gradio's page asks for it: what is said, and every file."""
    session = uuid.uuid4().hex
    body = {"fn_index": dependency["id"], "data": data, "session_hash": session, "event_data": event_data}
    joined = web.post("gradio_api/queue/join", content=json.dumps(body), headers={"content-type": "application/json"})
    if joined.status_code != 200:
        return joined.text
    said = []
    with web.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            said.append(line)
            if "process_completed" in line or "close_stream" in line:
                break
    for path in paths(json.loads(said[-1].removeprefix("data:"))):
        said.append(web.get(f"gradio_api/file={path}").text)
    return "\n".join(said)


def paths(value):
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        for part in value.values():
            yield from paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from paths(part)


def functions(config):
    """Every function that the page or the API has, each once: a later one is asked as well."""
    found = [one for one in config["dependencies"] if one["backend_fn"]]
    assert len(found) > 25
    return {(re.sub(r"_\d+$", "", one["api_name"] or ""), *one["inputs"]): one for one in found}.values()


def usual(config, dependency, image):
    """What the page sends at first, with an image wherever a file belongs."""
    by = {one["id"]: one for one in config["components"]}
    return [image if takes_file(by[one]) else by[one]["props"].get("value") for one in dependency["inputs"]]


def takes_file(component):
    of_the_api = component["props"].get("_api_info", {}).get("properties", {})
    return component["type"] in ("image", "uploadbutton", "file") or "path" in of_the_api


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_no_function_opens_a_file_that_was_not_uploaded(web, config, secret, server):
    pipe = secret.parent / "pipe"
    os.mkfifo(pipe)
    uploads = Path(upload(web, "a.txt", b"sky")).parents[1]
    link = uploads / "planted" / "innocent.txt"
    link.parent.mkdir()
    link.symlink_to(secret)
    inner = link.with_name("pipe")
    os.mkfifo(inner)
    outside = os.path.relpath(secret, uploads)
    named = [
        secret,
        pipe,
        link,
        uploads / outside,
        f"{uploads}/../../../..{secret}",
        f"file://{secret}",
        uploads,
        "/dev/zero",
    ]
    given = [
        one for path in map(str, named) for one in ({"path": path}, {"path": path, **META}, path, [{"path": path}])
    ]
    for dependency in functions(config):
        for value in given if dependency["inputs"] else []:
            answer = call(web, dependency, usual(config, dependency, value), event_data=value)
            assert SECRET.decode() not in answer, (dependency["api_name"], value)
            assert "cm9vdCBvZiBhbGwgc2VjcmV0cw" not in answer, (dependency["api_name"], value)
    assert web.get("config").status_code == 200


def test_no_function_is_confused_by_what_it_gets(web, config, own, server):
    """Each input of each function becomes each kind of junk: one sentence, and no traceback on the server."""
    for dependency in functions(config):
        data = usual(config, dependency, own)
        for place in range(len(data)):
            junk = JUNK[(place + dependency["id"]) % 6 :: 6]
            for value in junk:
                call(web, dependency, [*data[:place], value, *data[place + 1 :]], event_data=value)
    said = "".join(server.output)
    frames = [line.strip() for line in said.splitlines() if "clearclip/studio" in line]
    assert not frames, said[-6000:]
    assert web.get("config").status_code == 200
    assert "studio.example" not in said


def test_only_uploads_are_served_as_files(web, secret):
    own = upload(web, "mine.txt", b"mine")
    assert web.get(f"gradio_api/file={own}").text == "mine"
    for path in (
        secret,
        Path.cwd() / "pyproject.toml",
        "http://127.0.0.1:1/x",
        "https://example.org/x",
        "/dev/zero",
        "x\0",
    ):
        answer = web.get(f"gradio_api/file={path}".replace("\0", "%00"))
        assert answer.status_code == 404, path
    assert web.get(f"gradio_api/file={Path(own).parents[1]}").status_code == 404
    for strange in ("../../up.txt", "/etc/up.txt", "..", "a\\..\\b.txt"):
        answer = web.post("gradio_api/upload", files={"files": (strange, b"up")})
        uploads = Path(own).parents[1]
        assert answer.status_code == 400 or Path(answer.json()[0]).resolve().parent.parent == uploads.resolve()


def test_where_an_upload_lies_cannot_be_computed_from_it(web):
    import hashlib

    import gradio.processing_utils as gradio_files

    data = png()
    folder = Path(upload(web, "guess.png", data)).parent.name
    assert folder != hashlib.sha256(data).hexdigest()
    assert folder != hashlib.sha256(gradio_files.hash_seed + data).hexdigest()
    assert len(folder) == 64


def test_nothing_is_fetched_from_elsewhere(web, config):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
        for dependency in functions(config):
            for value in (
                {"path": address, **META},
                [{"path": address, **META}],
                {"path": "https://8.8.8.8/x", **META},
            ):
                said = call(web, dependency, [value for _ in dependency["inputs"]])
                assert not dependency["inputs"] or "nothing is fetched" in said
        with pytest.raises(TimeoutError):
            listening.accept()


def test_other_hosts_and_origins_are_refused(server, web):
    port = httpx.URL(server.url).port
    routes = ["/", "/config", "/gradio_api/info", "/gradio_api/heartbeat/x", "/gradio_api/queue/data?session_hash=x"]
    for route in routes:
        for host in (
            "evil.test",
            f"evil.test:{port}",
            "127.0.0.1.evil.test",
            "127.0.0.1@evil.test",
            "evil.test#127.0.0.1",
            "",
        ):
            answer = web.get(route, headers={"host": host})
            assert answer.status_code == 403, (route, host)
            assert "clearclip studio" not in answer.text
        answer = web.get(route, headers={"host": "evil.test", "origin": "http://evil.test"})
        assert "access-control-allow-origin" not in answer.headers
        asked = {"origin": "http://evil.test", "access-control-request-method": "POST"}
        for host in ("evil.test", f"127.0.0.1:{port}"):
            assert web.options(route, headers={**asked, "host": host}).status_code == 403
        for origin in (
            "http://evil.test",
            "null",
            f"http://localhost:{port + 1}",
            f"http://evil.test:{port}",
            "http://[",
        ):
            assert web.get(route, headers={"origin": origin}).status_code == 403, (route, origin)
    for origin in ("http://evil.test", "null"):
        body = {"data": ["x"]}
        for route in ("upload", "queue/join", "call/models", "run/predict", "cancel", "reset"):
            answer = web.post(f"/gradio_api/{route}", json=body, headers={"origin": origin})
            assert answer.status_code == 403, route
            assert "access-control-allow-origin" not in answer.headers
    assert web.get("/config", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    assert web.get("/config", headers={"origin": server.url.rstrip("/")}).status_code == 200
    assert web.get("/config", headers={"host": f"localhost:{port}"}).status_code == 200


def test_a_websocket_is_closed(server):
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port)) as connection:
        headers = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: YQ==")
        lines = ("GET /gradio_api/queue/join HTTP/1.1", f"Host: {url.host}:{url.port}", *headers, "", "")
        connection.sendall("\r\n".join(lines).encode())
        assert not connection.recv(200).startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(
    ("host", "allowed", "good", "bad"),
    [
        ("127.0.0.1", (), ["127.0.0.1:7860", "LocalHost", "[::1]:1", "127.0.0.9"], ["10.0.0.5", "box.lan", ""]),
        ("::1", (), ["[::1]:7860", "localhost:7860"], ["[fe80::1]:7860"]),
        (
            "0.0.0.0",
            (),
            ["10.0.0.5:7860", "[fe80::1]:1", socket.gethostname(), "localhost"],
            ["box.evil", "evil.test."],
        ),
        ("studio.example", (), ["studio.example:7860", "localhost"], ["example", "xstudio.example"]),
        ("127.0.0.1", ("studio.example", "*.lan"), ["studio.example", "a.lan:80"], ["lan", "a.studio.example", "xlan"]),
    ],
)
def test_the_rule_for_hosts(host, allowed, good, bad):
    hosts = Hosts(host, allowed=allowed)
    for name in good:
        hosts.check(Headers({"host": name}))
    for name in bad:
        with pytest.raises(UsageError, match="--allow-host"):
            hosts.check(Headers({"host": name}))


def test_the_rule_for_origins_behind_a_proxy():
    hosts = Hosts("127.0.0.1", allowed=("studio.example",))
    hosts.check(Headers({"host": "127.0.0.1:7860", "origin": "https://studio.example"}))
    hosts.check(Headers({"host": "studio.example", "origin": "https://studio.example"}))
    with pytest.raises(UsageError, match="cannot use the studio"):
        hosts.check(Headers({"host": "studio.example", "origin": "https://evil.test"}))


def test_gradios_other_routes_are_closed(web):
    for route in (
        *("component_server", "process_recording", "vibe-edit", "vibe-code", "stream/x", "stream/x/close"),
        *(
            "proxy=http://x.hf.space/",
            "deep_link?session_hash=x",
            "custom_component/a/client/b/c",
            "token",
            "dev/reload",
        ),
        *("run-history/buckets", "profiling/traces", "monitoring/summary", "mcp/"),
    ):
        for method in ("GET", "POST"):
            assert web.request(method, f"gradio_api/{route}").status_code in (404, 405), route
    for route in ("monitoring", "monitoring/summary", "docs", "openapi.json", "pwa_icon/99999999"):
        assert web.get(route).status_code == 404, route


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"data": [' + b"[" * 200 + b"]" * 200 + b"]}", "nested deeper than 20 levels"),
        (b'{"data": [' + b"[" * 15_000 + b"]" * 15_000 + b"]}", "no JSON that can be read"),
        (b'{"data": [' + b"[]," * 30_000 + b"0]}", "more than 20,000 parts"),
        (b'{"data": [' + b"9" * 5000 + b"]}", "no JSON that can be read"),
        (b'{"data": ["' + b"x" * 500_000 + b'"]}', "larger than the limit of 500,000 bytes"),
        (b"\xff\xfe nothing", "no JSON that can be read"),
    ],
)
def test_bodies_are_bounded_before_gradio_reads_them(web, body, message):
    for route in ("queue/join", "call/segment", "call/v2/segment", "run/predict", "cancel", "reset"):
        answer = web.post(f"gradio_api/{route}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 413)
        assert message in answer.text, answer.text[:300]


def api(web, name, data):
    event = web.post(f"gradio_api/call/{name}", json={"data": data}).json()["event_id"]
    return web.get(f"gradio_api/call/{name}/{event}").text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["w" * 250], "250 characters: at most 200"),
        (["a=" + "|".join(f"s{index}" for index in range(12_000))], "12,000 synonyms: at most 30"),
        (["a" * 190 + str(index) for index in range(1500)], "characters: at most 100,000"),
        (["b"] * 2001, "2001 words: at most 2000"),
        ([f"c{index}=d{index}|e{index}" for index in range(1000)], "3,000 words, synonyms included: at most 2,000"),
        ("x" * 150_000, "150,000 characters: at most 100,000"),
    ],
)
def test_words_are_bounded_before_any_work(web, own, words, message):
    started = time.monotonic()
    assert message in api(web, "search", [own, "tiny", "clearclip", [], "cpu", words])
    assert time.monotonic() - started < 20
    if len(words) == 1:
        assert message in api(web, "segment", [own, words, "tiny", "clearclip", 0, "", [], "cpu", "none"])


def test_prompts_are_bounded(web, own):
    for templates, message in (
        ([" {}"] * 101, "101 prompts: at most 100"),
        (["x" * 301 + "{}"], "303 characters: at most 300"),
    ):
        assert message in api(web, "segment", [own, ["sky"], "tiny", "clearclip", 0, "", templates, "cpu", "none"])


def test_many_words_let_others_in_between(web, own):
    """A search that takes long, and a segmentation beside it: the second does not wait for the first."""
    words = [f"thing {index} {uuid.uuid4().hex[:6]}" for index in range(600)]
    with concurrent.futures.ThreadPoolExecutor() as pool, httpx.Client(base_url=web.base_url, timeout=120) as other:
        search = pool.submit(api, web, "search", [own, "tiny", "clearclip", [], "cpu", words])
        time.sleep(1)
        answer = api(other, "segment", [own, ["tree"], "tiny", "clearclip", 0, "", [], "cpu", "none"])
        waiting = not search.done()
        assert "event: complete" in answer
        assert waiting
        assert "event: complete" in search.result()


def test_uploads_keep_within_their_room(tmp_path):
    server = start("--port", free_port(), "--models", "tiny", "--max-upload", 1, "--max-stored", 8, cache=tmp_path)
    try:
        with httpx.Client(base_url=server.url, timeout=60) as web:
            first = upload(web, "0.bin", os.urandom(1_900_000))
            uploads = Path(first).parents[1]
            for index in range(1, 12):
                last = upload(web, f"{index}.bin", os.urandom(1_900_000))
            files = [path for path in uploads.rglob("*.bin") if path.is_file()]
            assert sum(path.stat().st_size for path in files) <= 8_000_000
            assert not Path(first).exists()
            assert Path(last).exists()
            too_large = web.post("gradio_api/upload", files={"files": ("x", os.urandom(4_000_000))})
            assert too_large.status_code == 413
            scene = next(path for path in paths(web.get("config").json()["components"]) if "scene" in path)
            assert web.get(f"gradio_api/file={scene}").status_code == 200, "the gallery stays"
    finally:
        stop(server)


def test_files_that_nobody_can_remove_leave_no_room(tmp_path):
    files = Files(tmp_path, limit=1000)
    (files.uploads / "tmpabc").write_bytes(bytes(900))  # is being written
    with pytest.raises(UsageError, match=r"1,000 bytes .* are full"):
        files.take(200)
    os.utime(files.uploads / "tmpabc", (0, 0))  # was given up
    files.take(200)
    assert not (files.uploads / "tmpabc").exists()


def test_passwords_cannot_be_guessed_on(tmp_path):
    server = start("--port", free_port(), "--models", "tiny", "--auth", "ann:secret", cache=tmp_path)
    try:
        with httpx.Client(base_url=server.url) as web:

            def guess(word):
                return web.post("login", data={"username": "ann", "password": word}).status_code

            assert guess("secret") == 200
            with concurrent.futures.ThreadPoolExecutor(20) as pool:
                codes = list(pool.map(guess, map(str, range(200))))
            assert codes.count(400) == GUESSES
            assert codes.count(429) == 200 - GUESSES
            assert guess("secret") == 429
            assert web.post("login", content=b"x" * 20_000).status_code == 413
    finally:
        stop(server)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_visitors_image_stays_on_disk(tmp_path, monkeypatch, end):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(end)
    if before is signal.SIG_IGN:  # under nohup, which children inherit and the studio keeps to
        signal.signal(end, signal.SIG_DFL)
    try:
        server = start("--port", free_port(), "--models", "tiny", cache=tmp_path / "cache")
    finally:
        if before is signal.SIG_IGN:
            signal.signal(end, before)
    try:
        path = Path(httpx.post(f"{server.url}gradio_api/upload", files={"files": ("face.png", png())}).json()[0])
        assert path.is_file()
        with work_folder() as other:
            assert path.is_file(), "a living server's files stay"
            server.process.send_signal(end)
            server.process.wait(30)
            assert path.exists() == (end == signal.SIGKILL)
            assert other.is_dir()
        with work_folder():
            assert len(list(tmp_path.glob(f"{FOLDER_PREFIX}*"))) == 1
        assert not list(tmp_path.glob(f"{FOLDER_PREFIX}*"))
    finally:
        stop(server)


def test_foreign_folders_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    precious = tmp_path / "precious"
    for folder in (precious, tmp_path / "tmp" / f"{FOLDER_PREFIX}old"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    (precious / ".clearclip-lock").write_text("")
    (tmp_path / "tmp" / f"{FOLDER_PREFIX}link").symlink_to(precious)
    with work_folder():
        pass
    assert (precious / "file").exists()
    assert (tmp_path / "tmp" / f"{FOLDER_PREFIX}old" / "file").exists(), "it has no lock: nobody knows whose it is"


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "300.1.1.1", "2001:db8::1"])
def test_a_host_that_is_not_ours_is_one_line(host, tmp_path):
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "clearclip", "app", "--no-browser", "--host", host],
        capture_output=True, text=True, timeout=120, env={**os.environ, "CLEARCLIP_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 2
    assert f"--host {host}" in ran.stderr
    assert len(ran.stderr.splitlines()) <= 3
    assert time.monotonic() - started < 60


def test_a_port_that_is_taken_is_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ran = run("app", "--no-browser", "--port", listening.getsockname()[1])
    assert ran.code == 1
    assert "choose another with --port" in ran.err


def test_a_page_on_a_name_that_points_here_gets_nothing(server, tmp_path):
    """DNS rebinding in a real browser: evil.test is 127.0.0.1, as an attacker's name server can say."""
    import shutil

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    port = httpx.URL(server.url).port
    rules = "--host-resolver-rules=MAP evil.test 127.0.0.1"
    ask = "(url) => fetch(url).then((answer) => answer.text()).then((text) => text, (error) => 'no: ' + error)"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", rules])
        page = browser.new_page()
        page.goto(f"http://evil.test:{port}/")
        assert "--allow-host" in page.content()
        assert "clearclip studio" not in page.evaluate(ask, f"http://evil.test:{port}/config")
        assert page.evaluate(ask, f"http://127.0.0.1:{port}/config").startswith("no: ")
        browser.close()


def test_limits_leave_room_for_an_upload():
    with pytest.raises(UsageError, match="--max-stored"):
        Limits(upload_bytes=1000, stored_bytes=3999)


@pytest.mark.parametrize("host", ["[::1].example.org", "[::1]x", "[::1]].example.org:7860"])
def test_a_name_that_begins_as_an_address_is_not_that_address(host):
    with pytest.raises(UsageError, match="does not answer"):
        Hosts("127.0.0.1").check({"host": host})


@pytest.mark.parametrize("host", ["[::1]", "[::1]:7860", "localhost:7860"])
def test_loopback_addresses_are_answered(host):
    assert Hosts("127.0.0.1").check({"host": host}) is None  # else it raises
