"""Counts the test targets of one `bazel test` in the file that --build_event_json_file wrote.

    count_tests.py FILE     prints two numbers: passed, and not passed (failed, timed out, flaky, not built);
                            a target that is no test counts where it could not be built

A file that is missing or ends early, as after a crash of Bazel, counts for as much as it holds.
"""

import json
import sys


def statuses(path):
    """The overall status of each test target, and of each target that was not built, by label."""
    found = {}
    try:
        with open(path, encoding="utf-8") as events:
            for line in events:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                what = event.get("id", {})
                if "testSummary" in what:
                    label = what["testSummary"].get("label")
                    found[label] = event.get("testSummary", {}).get("overallStatus", "NO_STATUS")
                elif "targetCompleted" in what and not event.get("completed", {}).get("success", False):
                    found.setdefault(what["targetCompleted"].get("label"), "NO_STATUS")
    except OSError:
        pass
    return found


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: count_tests.py FILE")
    results = list(statuses(sys.argv[1]).values())
    passed = results.count("PASSED")
    print(passed, len(results) - passed)


if __name__ == "__main__":
    main()
