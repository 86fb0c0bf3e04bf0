"""Configs are dumped as they are: to format them takes longer than a small training does."""

from __future__ import annotations

from yapf.yapflib import yapf_api

yapf_api.FormatCode = lambda text, **_: (text, False)
