"""Runs many command lines of tests/python/check_model.py in one process: a JSON list of lists on stdin, a JSON list of
what each printed on stdout. Ends with 1 at the first that fails, and says which."""

import contextlib
import io
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests" / "python"))
import check_model  # noqa: E402

said = []
for job in json.load(sys.stdin):
    sys.argv = ["check_model.py", *job]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            check_model.main()
        except SystemExit as end:
            if end.code:
                print("judge.py: failed:", *job, file=sys.stderr)
                print(out.getvalue(), file=sys.stderr)
                sys.exit(1)
    said.append(out.getvalue())
json.dump(said, sys.stdout)
