import pytest

from glassgpt.compression import report


@pytest.fixture(scope="module", autouse=True)
def short_measurements():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "TIMED_TOKENS", 4)
        patch.setattr(report, "TIMED_ROUNDS", 1)
        patch.setattr(report, "COMPARED_PROMPTS", 12)
        yield
