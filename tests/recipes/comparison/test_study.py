"""A study: settings of ESPRO on the same modes."""

from pathlib import Path

import comparison_report
import pytest
import study_espro


def test_a_study_reuses_the_modes_and_appends_a_line_a_setting(small: list[str], tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("plain: {}\nloud: {start_jitter: 0.5, connector_learning_rate: 1.0e-2}\n")
    flags = [*small, "--output_dir", str(tmp_path / "out"), "--study", str(study), "--budget", "2"]
    flags += ["--points_a_component", "1"]
    added = study_espro.main(flags)
    assert [line["setting"] for line in added] == ["plain", "loud"]
    assert added[0]["methods"]["centroids"] != added[1]["methods"]["centroids"]
    assert added[0]["methods"]["deep_ensemble"] == added[1]["methods"]["deep_ensemble"]
    assert study_espro.main(flags) == []
    means, lines = (tmp_path / "out" / "study.md").read_text().split("\n\n")
    # A head, and a row for each setting.
    assert means.count("\n| ") == 3 and lines.count("\n| ") == 3
    of_plain = added[0]["methods"]
    gained = 100 * (of_plain["one_mode"]["accuracy"] - of_plain["one_of_centroids"]["accuracy"])
    assert f"| {gained:+.2f} |" in next(line for line in means.splitlines() if line.startswith("| plain | 1 |"))
    assert len((tmp_path / "out" / "study.jsonl").read_text().splitlines()) == 2
    report = comparison_report.main([str(tmp_path / "out"), str(tmp_path / "report")])
    assert report == (tmp_path / "out" / "study.md").read_text()
    assert comparison_report.main([str(tmp_path / "report")]) == report
    study.write_text("wrong: {num_train_epochs: 9}\n")
    with pytest.raises(SystemExit) as caught:
        study_espro.main(flags)
    assert caught.value.code == 2
