"""Settings that all tests share."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "pathnas", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("pathnas")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session():
    """A local Ray cluster that all tests share, since it takes seconds to start."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'pathnas[ray]'")
    from pathnas import executors

    with executors.Ray(2, preload=()) as executor:
        yield executor


@pytest.fixture(scope="module")
def stubs():
    """Trainings are replaced by hashes of what they were to do: a run takes half a second."""
    from pathnas import evaluators
    from tests import stub_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluators, "train", stub_run.train)
        patch.setattr(evaluators, "score", stub_run.score)
        yield patch
