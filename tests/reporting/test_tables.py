"""Tables that were damaged, or are of other trials, are refused by name."""

import shutil

import pandas as pd
import pytest

from pipeline.common.errors import PipelineError
from pipeline.pages.generated import update_files
from pipeline.reporting.page import make_report
from pipeline.reporting.tables import read_committed, read_stage_outputs
from pipeline.trials.parameters import load_parameters
from tests.synthetic_results import write_results


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tables that the report keeps, with params.yaml beside them."""
    folder = tmp_path_factory.mktemp("tables")
    write_results(folder, seeds=(0, 1), epochs=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        parameters = load_parameters()
        update_files(make_report(parameters, read_stage_outputs(parameters)), folder / "reports/notebook", "dvc repro")
    return folder


@pytest.fixture
def committed(made, tmp_path, monkeypatch):
    shutil.copytree(made / "reports", tmp_path / "reports")
    shutil.copy(made / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "reports/notebook"


def read():
    return read_committed(load_parameters())


def test_the_tables_come_back_as_they_were_written(committed):
    for name, text in read().as_files().items():
        assert (committed / name).read_text() == text


def set_cell(column, value):
    def change(table):
        table = table.astype({column: object})
        table.loc[1, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("history.csv", set_cell("val_loss", "text")),
        ("history.csv", set_cell("epoch", "first")),
        ("history.csv", set_cell("epoch", 1.5)),
        ("history.csv", set_cell("seed", None)),
        ("history.csv", set_cell("study", "other")),
        ("history.csv", lambda table: table.head(0)),
        ("history.csv", lambda table: table[table["epoch"] < 3]),
        ("history.csv", lambda table: table[table["batch_size"] != 32]),
        ("history.csv", lambda table: pd.concat([table, table])),
        ("history.csv", lambda table: table.drop(columns="val_loss")),
        ("weights.csv", set_cell("arm", "other")),
        ("weights.csv", set_cell("arm", None)),
        ("weights.csv", set_cell("seed", -1)),
        ("weights.csv", set_cell("batch_size", "small")),
        ("weights.csv", lambda table: table.head(3)),
        ("test_trials.csv", set_cell("accuracy", "high")),
        ("layers.csv", set_cell("trained", "many")),
        ("inputs.csv", lambda table: table.drop(columns="md5")),
    ],
)
def test_a_damaged_table_is_named_in_one_line(committed, name, change):
    change(pd.read_csv(committed / name)).to_csv(committed / name, index=False)
    with pytest.raises(PipelineError, match=rf"^reports/notebook/{name}: ") as raised:
        read()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", "5", "{", "", "{}"])
def test_a_damaged_profile_is_named(committed, text):
    (committed / "data_profile.json").write_text(text)
    with pytest.raises(PipelineError, match=r"^reports/notebook/data_profile\.json: "):
        read()


def test_a_column_that_nothing_reads_does_no_harm(committed):
    table = pd.read_csv(committed / "weights.csv").assign(note=1.0)
    table.to_csv(committed / "weights.csv", index=False)
    assert "note" in read().weights
