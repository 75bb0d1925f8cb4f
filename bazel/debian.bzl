"""Libraries out of installed Debian packages, as Bazel targets; their flags come from pkg-config.

    @debian//:libmicrohttpd  :libcjson  :apr  :talloc  :benchmark  :expat  :lua  :sqlite3  :libsodium  :openssl
    @com_google_absl//:flat_hash_map and the other names in ABSEIL_LIBRARIES

Each library is a repository of its own, fetched when the first target that is built depends on it: a package that is
not installed stops only who needs it, with its name in the message, and is looked for again in the next build.
Headers are included as they are in any program on Debian: <microhttpd.h>, <cjson/cJSON.h>, <apr_pools.h>, <talloc.h>,
<benchmark/benchmark.h>, "absl/container/flat_hash_map.h".
"""

# Name of the target: (name for pkg-config, Debian package).
DEBIAN_LIBRARIES = {
    "apr": ("apr-1", "libapr1-dev"),
    "benchmark": ("benchmark", "libbenchmark-dev"),
    "expat": ("expat", "libexpat1-dev"),
    "libcjson": ("libcjson", "libcjson-dev"),
    "libmicrohttpd": ("libmicrohttpd", "libmicrohttpd-dev"),
    "libsodium": ("libsodium", "libsodium-dev"),
    "lua": ("lua5.4", "liblua5.4-dev"),
    "openssl": ("openssl", "libssl-dev"),
    "sqlite3": ("sqlite3", "libsqlite3-dev"),
    "talloc": ("talloc", "libtalloc-dev"),
}

# Name of the target: name for pkg-config, less its absl_.
ABSEIL_LIBRARIES = {
    "algorithm_container": "algorithm_container",
    "btree": "btree",
    "cleanup": "cleanup",
    "fixed_array": "fixed_array",
    "flags": "flags",
    "flags_parse": "flags_parse",
    "flat_hash_map": "flat_hash_map",
    "flat_hash_set": "flat_hash_set",
    "function_ref": "function_ref",
    "hash": "hash",
    "inlined_vector": "inlined_vector",
    "node_hash_map": "node_hash_map",
    "node_hash_set": "node_hash_set",
    "random": "random_random",
    "span": "span",
    "status": "status",
    "statusor": "statusor",
    "str_format": "str_format",
    "strings": "strings",
    "synchronization": "synchronization",
    "time": "time",
}

def _pkg_config(ctx, module, package):
    """The compiler and linker flags of `module`, as a struct of include_dirs, defines and linkopts."""
    tool = ctx.which("pkg-config")
    if not tool:
        fail("pkg-config is not installed: sudo apt-get install pkg-config")
    flags = []
    for kind in ["--cflags", "--libs"]:
        result = ctx.execute([tool, kind, module])
        if result.return_code != 0:
            fail("Debian package %s is missing (pkg-config does not know %s): sudo apt-get install %s" %
                 (package, module, package))
        flags.append([flag for flag in result.stdout.strip().split(" ") if flag])
    include_dirs = [flag[2:] for flag in flags[0] if flag.startswith("-I")]
    return struct(
        # The compiler's own directory must not be named: the order of the standard headers hangs on it.
        include_dirs = [d for d in include_dirs if d not in ["/usr/include", "/usr/include/"] and ctx.path(d).exists],
        defines = [flag[2:] for flag in flags[0] if flag.startswith("-D")],
        linkopts = [flag for flag in flags[1] if not flag.startswith("-L")],
    )

def _library(ctx, name, flags):
    """A cc_library with `flags`; include directories become links of the repository, for Bazel takes no others."""
    includes = []
    for directory in flags.include_dirs:
        link = "include/" + directory.replace("/", "_").strip("_")
        if not ctx.path(link).exists:
            ctx.symlink(directory, link)
        includes.append(link)
    return """
cc_library(
    name = {name},
    hdrs = glob([i + "/**/*" for i in {includes}]),
    includes = {includes},
    defines = {defines},
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
)
""".format(
        name = repr(name),
        includes = repr(includes),
        defines = repr(flags.defines),
        linkopts = repr(flags.linkopts),
    )

def _debian_library_impl(ctx):
    flags = _pkg_config(ctx, ctx.attr.module, ctx.attr.package)
    ctx.file("BUILD", _library(ctx, "library", flags))

_debian_library = repository_rule(
    implementation = _debian_library_impl,
    attrs = {
        "module": attr.string(mandatory = True, doc = "The name for pkg-config."),
        "package": attr.string(mandatory = True, doc = "The Debian package, for the message when it is missing."),
    },
    local = True,
)

def _debian_names_impl(ctx):
    ctx.file("BUILD", "".join([
        "alias(name = %r, actual = %r, visibility = [\"//visibility:public\"])\n" %
        (name, "@debian_%s//:library" % name)
        for name in ctx.attr.libraries
    ]))

_debian_names = repository_rule(
    implementation = _debian_names_impl,
    attrs = {"libraries": attr.string_list(mandatory = True)},
)

def debian_repositories():
    """Defines @debian, whose targets are the keys of DEBIAN_LIBRARIES."""
    for name, (module, package) in DEBIAN_LIBRARIES.items():
        _debian_library(name = "debian_" + name, module = module, package = package)
    _debian_names(name = "debian", libraries = DEBIAN_LIBRARIES.keys())

def _abseil_repository_impl(ctx):
    build = ""
    for name, module in ABSEIL_LIBRARIES.items():
        flags = _pkg_config(ctx, "absl_" + module, "libabsl-dev")

        # Flags for the processor belong to the library's own objects, which are built already.
        build += _library(ctx, name, struct(
            include_dirs = flags.include_dirs,
            defines = [],
            linkopts = flags.linkopts,
        ))
    ctx.file("BUILD", build)

abseil_repository = repository_rule(
    implementation = _abseil_repository_impl,
    doc = "Abseil as Debian's libabsl-dev installs it, one target per library.",
    local = True,
)
