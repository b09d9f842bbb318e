"""One training of an experiment in a process of its own, as `beside` starts it: `python -m … PLAN.json`."""

from __future__ import annotations

import sys
from pathlib import Path

from index_store.errors import RgunitError
from index_store.lifetimes import end_with_parent
from translation.evaluation.experiments.guidance import run_guidance
from translation.evaluation.experiments.plan import Plan
from translation.progress import Lines

if __name__ == "__main__":
    end_with_parent()
    try:
        run_guidance(Plan.model_validate_json(Path(sys.argv[1]).read_text()), Lines())
    except RgunitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
