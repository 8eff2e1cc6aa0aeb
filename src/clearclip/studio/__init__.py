"""The studio: a local web page on which words become masks as they are typed, and the same as an HTTP API.

`layout` is what stands on the page, `actions` what its events do, `html` what they draw, `server` puts it on a port.
"""

from clearclip.service.request import Limits, Request

__all__ = ["Limits", "Request"]
