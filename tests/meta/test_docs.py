"""README and examples run as they stand, on the reference model."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README_BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
)


@pytest.mark.slow
@pytest.mark.parametrize("code", README_BLOCKS)
def test_readme_code_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert "####" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert "confidence" in capsys.readouterr().out


def test_there_is_something_to_run() -> None:
    assert README_BLOCKS
    assert list((ROOT / "examples").glob("*.py"))
