"""What people type and send: label files, command lines, examples of the studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import FLOATS, NUMBERS, TEXTS, damage, damage_json
from tests.hostile.targets.common import ASKED, TINY, command, encoded, wrong_maps
from tests.hostile.targets.containers import seed_images
from tests.hostile.targets.rasters import seed_rasters
from tests.hostile.targets.videos import seed_videos

LABEL_FILES = {
    "labels.txt": "# what there is\nsky @#87ceeb\nperson=man|woman|child\ngrass\ntree=bush @#00ff00\n",
    "classes.txt": 'sky\nroad, street\nperson;man;woman\n"rock, paper"\ncar (red, big)\n',
    "numbered.txt": "0 sky\n1: grass, lawn\n2. tree\n",
    "behind.txt": "sky: 1\ngrass: 2\ntree: 3\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nsky:0,0,0::\ntree:128,0,0:a,b:c\n",
    "palette.csv": "sky,70,130,180\ntree,107,142,35\n",
    "table.csv": 'id,name,r,g,b\n0,sky,1,2,3\n1,"tree, bush",4,5,6\n',
    "objectInfo150.txt": "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t9\t9\tsky\n2\t0.1\t9\t9\ttree, bush\n",
    "wordnet.txt": "n01440764 sky\nn01443537 grass, lawn\n",
    "data.yaml": "path: ../x\nnc: 2\nnames:\n  0: sky\n  1: 'traffic_light'\nother: [1, {a: b}]\n",
    "list.yml": "- sky\n- tree\n",
    "id2label.json": '{"0": "sky", "1": "grass, lawn", "2": "tree"}',
    "list.json": '["sky", "grass, lawn", "tree"]',
    "config.json": '{"id2label": {"0": "sky", "1": "tree"}, "label2id": {"sky": 0, "tree": 1}}',
    "coco.json": '{"categories": [{"id": 1, "name": "sky", "color": [1, 2, 3]}, {"id": 2, "name": "tree"}]}',
    "ours.json": '{"labels": [{"index": 0, "name": "sky", "queries": ["sky", "air"], "color": "#010203"}], '
    '"background": "sky"}',
}  # fmt: skip


def seed_labels(place: Path) -> None:
    for name, text in LABEL_FILES.items():
        (place / name).write_text(text)


def check_labels(case: Case, code: int) -> str | None:
    if code:
        return None
    legend = json.loads((case.output / "labels.json").read_text(encoding="utf-8"))
    return wrong_maps([case.output / "p.png"], labels=len(legend.get("labels", legend)))


@target(seed=seed_labels, check=check_labels)
def labels(case: Case) -> Action:
    rng = case.rng
    name = rng.choice(list(LABEL_FILES))
    text = (case.seeds / name).read_bytes()
    kind = rng.randrange(10)
    if kind < 4:
        data = damage(text, rng, other=b'|=@#,;:\t*&!<"{[\xff\xfe\0\x85\xe2\x80\xa8' * 20)
    elif kind < 6 and name.endswith(".json"):
        data = damage_json(json.loads(text), rng).encode("utf-8", "surrogatepass")
    elif kind == 4:
        data = text.decode().encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp037")))
    elif kind == 5:
        data = "\n".join(rng.choice(TEXTS) for _ in range(rng.randrange(1, 12))).encode("utf-8", "surrogatepass")
    elif kind == 6:
        count = rng.choice((255, 256, 257, 1000, 70_000, 300_000))
        data = "\n".join(f"label {index}" for index in range(count)).encode()
    elif kind == 7:
        length = rng.choice((1000, 100_000, 5_000_000))
        data = rng.choice((b"a" * length, b"a=" + b"b|" * (length // 2) + b"c", b"a b " * (length // 4), b"#" * length))
    else:  # deep, wide, and of parts that refer to each other
        count, part = (
            rng.choice((30, 1000, 200_000)),
            rng.choice(("[", "{", '{"a":', "- ", "a: ", "&a [*a, ", "\t", ",;", '"(')),
        )
        head = rng.choice(
            ("", "names: ", "names:\n  0: ", '{"labels": ', "a: &a [x, x]\nb: &b {<<: [*a, *a]}\nnames: ")
        )
        data = (head + part * count + rng.choice(("", "a\n", "]" * count))).encode()
    file = case.write(name, data)
    photo = case.write("p.png", encoded(1))
    return command("segment", photo, "--labels", file, *TINY, "-o", case.output)


def seed_commands(place: Path) -> None:
    seed_images(place)
    seed_videos(place)
    seed_rasters(place)


def check_commands(case: Case, code: int) -> str | None:
    return None if code else wrong_maps(case.output.glob("p.png"), labels=255)


UNHURRIED = ("app", "reproduce")  # a server that stays, and hours of work
WORDY = (
    *TEXTS[:40], "tiny", "clearclip", "png", "cpu", "meta", "cuda:99", "mps", "privateuseone", "float16", "paper",
    "scenes", "clearclip[residual=beta:1e999]", "clearclip[alpha=nan]", "gem[depth=99999999999999999999]",
    "vanilla[attention=qq+" + "kk+" * 500 + "vv]", "1/4", "0/0", "9" * 5000 + "/1", "1,2,3", "0,0", "nan,nan", "a.mp4",
    "local-dir:/", "local-dir:", "hf-hub:", "ViT-B-16/nothing", "nobody/nothing", "/proc/self/mem", "/dev/null",
)  # fmt: skip


@target(seed=seed_commands, check=check_commands)
def commands(case: Case) -> Action:
    """Every command and option that there is, with values that nobody means."""
    import typer.main

    from clearclip.cli import app

    rng, case.may_add = case.rng, True
    names = {"p.png": "rgb.png", "v.mkv": "a.mkv", "r.tif": "rgb.tif"}
    photo, video, raster = (case.write(name, (case.seeds / source).read_bytes()) for name, source in names.items())
    known: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    name = rng.choice([one for one in known if one not in UNHURRIED])
    usual: dict[str, list[Any]] = {
        "segment": [photo, *ASKED, "-o", case.output],
        "large": [raster, *ASKED, "-o", case.output / "l.tif"],
        "video": [video, *ASKED, "-o", case.output / "o.mp4"],
        "compare": [photo, *ASKED, "-o", case.output],
        "inspect": [photo, "--model", "tiny", "--device", "cpu", "-o", case.output],
        "evaluate": ["scenes", "--limit", "1", *TINY, "-o", case.output],
        "results": [case.inputs],
        "demo": ["--limit", "1", "--method", "clearclip", "-o", case.output],
    }
    line = usual.get(name, []) if rng.random() < 0.9 else []
    kinds = get_type_hints(known[name].callback)
    options = [one for one in known[name].params if one.param_type_name == "option" and one.name != "overwrite"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.1 or not options:
            line = [*line, rng.choice(WORDY)]
            continue
        option = rng.choice(options)
        value = [] if kinds[option.name] is bool else [_value_of(option.name, str(kinds[option.name]), case)]
        line = [*line, rng.choice(option.opts), *value]
    # Systems pass no zero bytes, and bytes that are no text as the surrogates from dc80 to dcff.
    return command(name, *(str(part).replace("\0", "").replace("\ud800", "\udcff") for part in line))


def _value_of(name: str, kind: str, case: Case) -> str:
    value = _any_value(name, kind, case)
    # What a run was asked to write would lie among what it may not leave behind.
    return str(case.output / value) if name == "output" and value else value


def _any_value(name: str, kind: str, case: Case) -> str:
    rng = case.rng
    if name in ("limit", "worst", "workers", "batch_size", "every"):  # larger ones are more work, and meant
        return rng.choice(("-1", "0", "1", "2", "", "x", "1.5"))
    if name == "engine":
        return rng.choice(("local", "", "rays"))
    if "int" in kind or "float" in kind or rng.random() < 0.2:
        return str(rng.choice((*NUMBERS[:-1], *FLOATS, "1e9", "0x10", "1_000", "٣", "", "-0", "1e-9", "0.5")))
    if "Path" in kind:
        places = (case.inputs / "p.png", case.inputs, case.output / "x" / "y", case.output, case.inputs / "no")
        return str(rng.choice((*places, case.output / ("x" * 300), case.output / "é\n.tif", "")))
    return rng.choice(WORDY)


def seed_examples(place: Path) -> None:
    from clearclip.service.request import Limits, read_request
    from clearclip.studio.export import example

    (place / "p.png").write_bytes(encoded(1))
    settings = {"labels": ["sky", "tree=bush @#00ff00"], "model": "tiny", "method": "clearclip", "threshold": 0.2}
    request = read_request(**settings, limits=Limits())
    text = example(settings, request=request, image=place / "p.png", limits=Limits())
    (place / "example.json").write_text(text, encoding="utf-8")


@target(seed=seed_examples)
def examples(case: Case) -> Action:
    """Examples of the studio, read as its server reads them."""
    document = json.loads((case.seeds / "example.json").read_text(encoding="utf-8"))
    as_bytes = case.rng.random() < 0.2
    file = case.write(
        "e.json", damage(json.dumps(document).encode(), case.rng) if as_bytes else damage_json(document, case.rng)
    )

    def run() -> None:
        from clearclip.encode.images import load_image
        from clearclip.service.request import Limits, read_request
        from clearclip.studio.export import read_example

        state, name, data = read_example(file, limits=Limits())
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise AssertionError(f"{name!r} is no plain name")
        known = {key: state[key] for key in ("model", "method", "threshold", "background", "templates") if key in state}
        load_image(data)
        read_request(state.get("labels"), limits=Limits(), **{"model": "tiny", **known})

    return run
