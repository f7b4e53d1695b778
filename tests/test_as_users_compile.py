"""The tests marked ``as_users_compile``, in a process that compiles with JAX's own settings."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MARKER = "@pytest.mark." + "as_users_compile"
RUN = "import sys, pytest; sys.exit(pytest.main(['-q', '-n', '0', '-m', 'as_users_compile', *sys.argv[1:]]))"


def test_every_marked_test_passes(run_python):
    texts = {path: path.read_text() for path in sorted(TESTS.rglob("test_*.py"))}
    files = [str(path) for path, text in texts.items() if MARKER in text]
    assert len(files) == 5
    done = run_python(RUN, *files, timeout=300.0, as_users_do=True, check=False)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert int(passed[1]) >= sum(text.count(MARKER) for text in texts.values())
