"""What is allowed at start, and who is warned."""

import urllib.error
import urllib.request

import pytest

from clearclip.errors import UsageError
from clearclip.studio.server import DEFAULT_MODELS, Options, exposure, is_loopback, parse_auth, parse_models


def test_models():
    assert parse_models([]) == {name: name for name in DEFAULT_MODELS}
    assert next(iter(parse_models([]))) == "tiny"
    assert parse_models(["tiny,mine=local-dir:/a/b=c", "hf-hub:org/name"]) == {
        "tiny": "tiny",
        "mine": "local-dir:/a/b=c",
        "hf-hub:org/name": "hf-hub:org/name",
    }
    for values in (["tiny,tiny"], ["tiny,,clip-b16"], ["a=tiny", "a=clip-b16"]):
        with pytest.raises(UsageError, match=r"--models|given twice"):
            parse_models(values)


def test_auth(tmp_path):
    file = tmp_path / "people"
    file.write_text("ann:a:b\n\nbob:c\n")
    assert parse_auth(["eve:x", str(file)]) == (("eve", "x"), ("ann", "a:b"), ("bob", "c"))
    for value in ("nobody", ":x", "eve:"):
        with pytest.raises(UsageError, match="USER:PASSWORD"):
            parse_auth([value])


def test_who_is_warned():
    assert exposure(Options()) is None
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    open_to_all = exposure(Options(host="0.0.0.0"))
    assert "everybody who can reach" in open_to_all
    assert "--auth" in open_to_all
    guarded = exposure(Options(host="192.168.0.7", auth=(("a", "b"),)))
    assert "with a password" in guarded
    assert "not encrypted" in guarded


def test_the_command_says_it_and_the_password_holds(tmp_path):
    from studio_process import free_port, start, stop

    server = start(
        "--host", "0.0.0.0", "--port", free_port(), "--models", "tiny", "--auth", "ann:secret", cache=tmp_path
    )
    try:
        said = "".join(server.output)
        assert "warning: the studio listens on 0.0.0.0" in said
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}gradio_api/info")
        with urllib.request.urlopen(url) as answer:
            assert "clearclip" not in answer.read().decode().split("gradio_config")[0]
    finally:
        stop(server)


def test_bad_options_are_one_line(run):
    for arguments, message in (
        (["--models", "tiny,tiny"], "given twice"),
        (["--auth", "nobody"], "USER:PASSWORD"),
        (["--max-labels", "300"], "254"),
    ):
        ran = run("app", "--no-browser", *arguments)
        assert ran.code == 2
        assert message in ran.err
        assert "Traceback" not in ran.err
