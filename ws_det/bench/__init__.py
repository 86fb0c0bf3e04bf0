"""What WS and BCN cost, measured against every peer in one interleaved run.

``tools/benchmark.py`` is the way in. A module for each question (weights, norms, inference; the
training step needs MMDetection and is in ``ws_det.mmdet.bench``) builds a ``Comparison``;
``rounds`` times it and ``tables`` shows it. Every arm is checked against ws_det's numbers before
it is timed: the time of a peer that computes something else says nothing.
"""
