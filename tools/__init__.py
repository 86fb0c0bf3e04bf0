"""The command-line tools; a wheel carries them as ``python -m ws_det.tools.<name>``."""
