"""External repositories for the WORKSPACE build (Bazel 4-6), all made locally.

The BUILD files load rules from @rules_python and name PyPI packages as
@pypi//<name>, as they would under bzlmod. Here those repositories are thin
stand-ins, so that the build needs no network: the rules are Bazel's own, and
the packages are the ones installed beside the interpreter.
"""

def _files_repository_impl(ctx):
    for path, content in ctx.attr.files.items():
        ctx.file(path, content, executable = False)

_files_repository = repository_rule(
    implementation = _files_repository_impl,
    attrs = {"files": attr.string_dict()},
)

def _reexport(names):
    return "".join(["{0} = native.{0}\n".format(name) for name in names])

_PUBLIC = "package(default_visibility = [\"//visibility:public\"])\n"

_PYTHON_BUILD = _PUBLIC + """
load("@rules_python//python:py_runtime.bzl", "py_runtime")
load("@rules_python//python:py_runtime_pair.bzl", "py_runtime_pair")

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _local_python_impl(ctx):
    python = ctx.os.environ.get("DSG_TF_PYTHON")
    if not python:
        python = ctx.path(Label("//:WORKSPACE")).dirname.get_child(".venv").get_child("bin").get_child("python")
        if not python.exists:
            fail("No .venv here: run `make setup`, or point DSG_TF_PYTHON at a Python that has the dependencies.")
    ctx.file("BUILD", _PYTHON_BUILD.format(python = python))

_local_python = repository_rule(
    implementation = _local_python_impl,
    environ = ["DSG_TF_PYTHON"],
    local = True,
)

def offline_repositories(pypi):
    """Declares every repository that the build or Bazel itself asks for.

    Args:
      pypi: names of the PyPI packages that BUILD files depend on.
    """
    _local_python(name = "local_python")
    _files_repository(
        name = "pypi",
        files = {
            name + "/BUILD": "py_library(name = \"{}\", visibility = [\"//visibility:public\"])\n".format(name)
            for name in pypi
        },
    )
    rules = ["py_binary", "py_library", "py_runtime", "py_test"]
    python = {"python/{}.bzl".format(rule): _reexport([rule]) for rule in rules}
    python["python/BUILD"] = ""
    python["python/py_runtime_pair.bzl"] = (
        "load(\"@bazel_tools//tools/python:toolchain.bzl\", _pair = \"py_runtime_pair\")\n" +
        "py_runtime_pair = _pair\n"
    )
    _files_repository(name = "rules_python", files = python)

    # Bazel 4 would download the rest, though a Python build uses none of it.
    _files_repository(name = "rules_cc", files = {
        "cc/BUILD": _PUBLIC + "toolchain_type(name = \"toolchain_type\")\n",
        "cc/defs.bzl": _reexport(["cc_binary", "cc_library", "cc_test", "cc_toolchain", "cc_toolchain_suite"]),
    })
    _files_repository(name = "rules_java", files = {
        "java/BUILD": "",
        "java/defs.bzl": _reexport(["java_binary", "java_import", "java_library", "java_runtime", "java_toolchain"]),
    })
    _files_repository(name = "remote_coverage_tools", files = {
        "BUILD": _PUBLIC + "filegroup(name = \"coverage_report_generator\")\nfilegroup(name = \"lcov_merger\")\n",
    })
