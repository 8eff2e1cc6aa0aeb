"""The studio: a local web page on which words become masks as they are typed, and the same as an HTTP API.

Data flows one way: `request` (what a visitor asks) → `engine` (models, features that are kept) → `pictures` and
`export` (what is shown and saved) → `page` and `api` (Gradio). `server` puts them on a port; only the last three need
Gradio.
"""

from clearclip.service.request import Limits, Request

__all__ = ["Limits", "Request"]
