"""Compares the cases that a suite of Python's tests has with those whose results it wrote.

    python_results.py SUITE CASES RESULTS     CASES: what `python3 -m test --list-cases` printed, or the results of
                                              another run; results as --junit-xml writes them

A case that has no result, or one that is no success and was not skipped, is a failure; so is a suite of which less than
half was really run.
"""
import sys
import xml.etree.ElementTree


def results_of(path):
    """{case: "good", "bad" or "skipped"}."""
    found = {}
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        result = ("bad" if kinds & {"error", "failure"} else
                  "skipped" if "skipped" in kinds or case.get("status") != "run" else "good")
        # Only what says that it is bad, or a case's second result that is worse, may replace a result.
        if found.get(case.get("name")) != "bad":
            found[case.get("name")] = result
    return found


def cases_of(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.startswith("<"):
        return set(results_of(path))
    return {line.strip() for line in text.splitlines() if line.startswith("test.")}


def main():
    suite, cases, results = sys.argv[1:]
    listed = cases_of(cases)
    found = results_of(results)
    bad = sorted(name for name, result in found.items() if result == "bad")
    missing = sorted(listed - set(found))
    good = sum(result == "good" for result in found.values())
    print("%s: %d cases, %d good, %d skipped" % (suite, len(listed), good, len(found) - good - len(bad)))
    for name in bad + missing:
        print("%s: %s" % ("failed" if name in found else "did not run", name))
    sys.exit(1 if bad or missing or not listed or good < len(listed) / 2 else 0)


if __name__ == "__main__":
    main()
