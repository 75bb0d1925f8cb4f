"""program_test: a shell test of a program with the library preloaded.

    program_test(
        name = "git_test",
        script = "git_test.sh",         # begins with: source tests/programs/preloaded.sh "$@"
        inputs = ["history.py"],        # optional: what the script reads
        runs = 1,                       # optional: how often `same` runs the preloaded program
        words = ["test_json"],          # optional: further arguments of the script
        library = "//mi:libother.so",   # optional: another library
    )

Tags: programs, by which they can be left out (--test_tag_filters=-programs); once, since one configuration will do.
"""

def program_test(
        name,
        script,
        inputs = [],
        runs = 1,
        words = [],
        library = "//mi:libmimalloc.so",
        tags = [],
        size = "medium",
        **kwargs):
    native.sh_test(
        name = name,
        srcs = [script],
        size = size,
        args = [
            "$(location %s)" % library,
            "$(location //tests/programs:libwitness.so)",
            str(runs),
        ] + words,
        data = inputs + [
            library,
            "//tests/programs:libwitness.so",
            "//tests/programs:preloaded.sh",
        ],
        tags = [
            "once",
            "programs",
        ] + tags,
        **kwargs
    )
