"""The parts of ws_det.annotations: what is computed, what is left out, and what is refused."""
