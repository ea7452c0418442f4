"""The checks of datasets with pictures and sound: each fault has its finding, and what only looks like one has none."""

import json

import media_faults
import pytest

from glassgpt.api.diagnosis import doctor
from glassgpt.multimodal import data_checks
from glassgpt.multimodal.dataset import MultimodalDataset


def findings(folder):
    return {finding.code: finding.severity for check in doctor(folder) for finding in check.findings}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("positions_off_by_one", {"GG-MED-001": "fatal"}),
        ("equal_texts", {"GG-MED-002": "fatal"}),
        ("leaked", {"GG-MED-003": "fatal"}),
        # the blank ones are equal, so that both splits have them
        ("blank", {"GG-MED-004": "fatal", "GG-MED-005": "warning", "GG-MED-007": "warning"}),
        ("placeholder", {"GG-MED-005": "warning", "GG-MED-007": "warning"}),
        ("low_rate", {"GG-MED-006": "warning"}),
        ("shared_media", {"GG-MED-007": "fatal"}),
    ],
)
def test_fault_is_found_and_nothing_else(tmp_path, make, expected):
    assert findings(getattr(media_faults, make)(tmp_path / "data")) == expected


@pytest.mark.parametrize("make", ["healthy", "prompted", "choices"])
def test_healthy_data_have_no_findings(tmp_path, make):
    assert findings(getattr(media_faults, make)(tmp_path / "data")) == {}


def test_documents_are_read_with_their_media(tmp_path):
    dataset = MultimodalDataset.open(media_faults.prompted(tmp_path / "data"))
    documents = data_checks.read_documents(dataset, "train")
    assert len(documents) == dataset.multimodal.train.documents == 80
    assert {one.answer for one in documents} == {"a red apple", "a blue bird"}
    assert {one.prompt for one in documents} == {"what is this?"}
    assert all(len(one.media) == 1 for one in documents)


def test_damaged_media_are_named(named_data, tmp_path):
    import shutil

    folder = shutil.copytree(named_data, tmp_path / "data")
    shard = folder / "media-00000.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert findings(folder) == {"GG-DAT-007": "fatal"}
    shard.unlink()
    assert findings(folder) == {"GG-DAT-007": "fatal"}


def test_command_prints_findings_and_fails(run_main, tmp_path):
    folder = media_faults.equal_texts(tmp_path / "data")
    code, out, _ = run_main("doctor", str(folder), "--json")
    found = [finding for check in json.loads(out)["checks"] for finding in check["findings"]]
    assert code == 1
    assert [finding["code"] for finding in found] == ["GG-MED-002"]
