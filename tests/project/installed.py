"""Run the suite on an installed wheel: ``python tests/project/installed.py [DIST] [pytest's arguments]``.

Builds a wheel and an sdist where the folder DIST does not hold them (needs ``build``), installs the wheel
with the extra ``test`` in a new environment, copies the tests and what they read, but not ``mme/``, to an
empty folder, and runs pytest there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# what tests read beside themselves; never the package
BESIDE = (
    "tests", "benchmarks", "docs", "README.md", "pyproject.toml", "asv.conf.json", ".ci", "CHANGELOG.md"
)  # fmt: skip

# these read the sources, or run commands that name files of the checkout
OF_THE_CHECKOUT = ("test_architecture.py", "project/test_readme.py")


def main(arguments: list[str]) -> int:
    options = [a for a in arguments if a.startswith("-")]
    dist = Path(next((a for a in arguments if not a.startswith("-")), ROOT / "dist")).resolve()
    if not list(dist.glob("*.whl")):
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT)], check=True)
    wheel = max(dist.glob("mme-*.whl"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as folder:
        home, work = Path(folder) / "venv", Path(folder) / "work"
        venv.create(home, with_pip=True)
        python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"{wheel}[test]"], check=True)
        work.mkdir()
        for name in BESIDE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
            elif source.exists():
                shutil.copy(source, work / name)
        where = subprocess.run(
            [str(python), "-c", "import mme; print(mme.__file__)"],
            cwd=work, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        if str(home) not in where:
            raise SystemExit(f"mme was imported from {where.strip()}, not from the wheel.")
        ignored = [f"--ignore=tests/{name}" for name in OF_THE_CHECKOUT]
        return subprocess.run([str(python), "-m", "pytest", *ignored, *options], cwd=work).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
