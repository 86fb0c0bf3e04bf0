"""The images a run has had. Oracle: by hand."""

from __future__ import annotations

from detectron2.engine import TrainerBase

from ws_det.batch import Batch
from ws_det.detectron2.progress import Progress


def after(iteration, progress):
    """The state that is saved in the step of an iteration."""
    progress.trainer.iter = iteration
    return progress.state_dict()


def test_a_run_goes_on_where_it_stopped():
    first = Progress(TrainerBase(), Batch(2, 3, 4))
    assert first.begin(0) == (0, None)
    second = Progress(TrainerBase(), Batch(2, 3, 4))
    second.load_state_dict(after(4, first))
    assert second.begin(5) == (20, None)  # five steps of four passes
    assert after(6, second) == {"batch": (2, 3, 4), "images": 7 * 24, "run": 0}


def test_other_gpus_go_on_after_as_many_images():
    """120 images of two processes, then 4 x 8 of one: 8 a pass are 15 passes of 8 images."""
    run = Progress(TrainerBase(), Batch(2, 3, 4))
    state = after(4, run)
    run = Progress(TrainerBase(), Batch(1, 8, 4))
    run.load_state_dict(state)
    skip, said = run.begin(5)
    assert skip == 15
    assert "1 x 8 x 4 for 2 x 3 x 4" in said and "after 120 images" in said
    assert after(5, run)["images"] == 120 + 32


def test_a_checkpoint_of_detectron2():
    assert Progress(TrainerBase(), Batch(2, 1, 4)).begin(3) == (12, None)
