"""The tests in tests/models need torch, so they run in an environment of their own, as one test of this one."""

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.requiring import require

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv-gpu" / "bin" / "python"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_models_run_where_torch_is(tmp_path: Path) -> None:
    require(PYTHON, installer="scripts/install-gpu-tests")
    report = tmp_path / "report.xml"
    command = [PYTHON, "-m", "pytest", "tests/models", "-v", "-p", "no:cacheprovider", f"--junitxml={report}"]
    # What the outer pytest left there is about itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    # Nothing that was left out passes for done.
    assert counts.pop("tests") >= 100
    assert counts == {"failures": 0, "errors": 0, "skipped": 0}
    models = {case.attrib["classname"] for case in suite.iter("testcase")}
    assert models == {f"tests.models.{path.stem}" for path in (ROOT / "tests" / "models").glob("test_*.py")}
