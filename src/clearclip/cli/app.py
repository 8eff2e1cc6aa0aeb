"""`clearclip app`: the studio, a local web page."""

from __future__ import annotations

from typing import Annotated

import typer

from clearclip.cli import options as o

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--models",
        help="Comma list of the models that may be loaded, the first one is shown first; NAME=SOURCE shows a source "
        "under a name. Default: tiny and all friendly names.",
    ),
]
Auth = Annotated[
    list[str] | None, typer.Option("--auth", help="USER:PASSWORD, or a file with one such pair a line. Repeat it.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        help="A further name under which the studio may be asked, such as a proxy's; NAME or *.NAME. Repeat it.",
    ),
]
RootPath = Annotated[
    str,
    typer.Option(
        "--root-path",
        envvar="GRADIO_ROOT_PATH",
        help="Where a proxy shows the studio: /NAME, or a whole address as https://HOST/NAME.",
    ),
]


def studio(
    host: Annotated[str, typer.Option(help="Address to listen on; the default can be reached from here only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    models: Models = None,
    device: Annotated[str | None, typer.Option(help="Comma list of the devices that may be chosen.")] = None,
    auth: Auth = None,
    allow_host: AllowHost = None,
    root_path: RootPath = "",
    value_range: o.ValueRange = None,
    max_upload: Annotated[int, typer.Option(min=1, help="Size of an uploaded file, in MB.")] = 20,
    max_stored: Annotated[
        int, typer.Option(min=1, help="Uploads and results on disk, in MB; the oldest go first.")
    ] = 2000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = 25_000_000,
    max_labels: Annotated[int, typer.Option(min=1, max=254, help="Labels in one request.")] = 100,
    cache: Annotated[int, typer.Option(min=1, help="Memory for images and their features, in MB.")] = 1000,
    keep_models: Annotated[int, typer.Option(min=1, help="Models in memory at once.")] = 2,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests that are worked on at once.")] = 2,
) -> None:
    """Open the studio: a web page where words become masks as you type, and the same as an HTTP API.

    It runs on this machine, for this machine: nothing is sent anywhere. Needs the extra `app`.
    """
    from clearclip.encode.levels import parse_range
    from clearclip.service.request import Limits
    from clearclip.studio.server import Options, parse_auth, parse_models, parse_root_path, serve

    limits = Limits(
        upload_bytes=max_upload * 1_000_000,
        stored_bytes=max_stored * 1_000_000,
        pixels=max_pixels,
        labels=max_labels,
        cache_bytes=cache * 1_000_000,
        models=keep_models,
        queue=queue,
        concurrency=concurrency,
    )
    serve(
        Options(
            models=parse_models(models or ()),
            host=host,
            port=port,
            browser=browser,
            devices=tuple(o.split(device) or ()),
            auth=parse_auth(auth or ()),
            allow_hosts=tuple(allow_host or ()),
            root_path=parse_root_path(root_path),
            value_range=parse_range(value_range),
            limits=limits,
        )
    )
