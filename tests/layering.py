#!/usr/bin/env python3
"""Reads the #include lines of kernels/ memory/ infer/ train/ runtime/ and fails where a folder includes from its right, where a CUDA
header is seen outside kernels/cuda/, or MPI or NCCL outside runtime/dist/.

    layering.py ROOT               exit code 1 and a line for each offence
    layering.py ROOT --self-test   the same after planting each kind of offence in a scratch tree: it must be found there
"""
import os
import re
import sys
import tempfile

ORDER = ["kernels", "memory", "infer", "train", "runtime"]
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include(?:_next)?[ \t]*([<"])([^>"]+)[>"]', re.M)
LONGER = re.compile(r"\\\r?\n")                       # a directive may be continued
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)     # after includes were found in code, not in comments
CUDA = re.compile(r"^(cuda|cublas|cusparse|cusolver|cudnn|cufft|curand|cutlass|cute|cub|thrust|cooperative_groups|mma\.h|nvrtc|nvml|nvtx|nvToolsExt)", re.I)
CLUSTER = re.compile(r"^(mpi[._\-]|mpi$|nccl|nvshmem)", re.I)
SUFFIXES = (".c", ".h", ".cu", ".cuh", ".inc", ".cc", ".cpp", ".hpp")


def strip_comments(text):
    """Comments become blanks of the same lines; quotes are respected so far that "//" inside a string does not start one."""
    pattern = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|' + COMMENT.pattern, re.S)
    return pattern.sub(lambda m: m[0] if m[0][0] in "\"'" else re.sub(r"[^\n]", " ", m[0]), text)


def offences_of(root):
    found, files, includes = [], 0, 0
    for folder in ORDER:
        for where, _, names in os.walk(os.path.join(root, folder)):
            for name in sorted(names):
                if not name.endswith(SUFFIXES):
                    continue
                path = os.path.relpath(os.path.join(where, name), root)
                with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
                    text = strip_comments(LONGER.sub("", f.read()))
                files += 1
                for m in INCLUDE.finditer(text):
                    includes += 1
                    line, target = text.count("\n", 0, m.start()) + 1, m[2]
                    # "vec.h" beside the file, or "kernels/ops.h" from the root: both are resolved before they are judged
                    beside = os.path.normpath(os.path.join(os.path.dirname(path), target))
                    resolved = beside if m[1] == '"' and os.path.isfile(os.path.join(root, beside)) else os.path.normpath(target)
                    part = resolved.split(os.sep)[0]
                    if part in ORDER and ORDER.index(part) > ORDER.index(folder):
                        found.append(f"{path}:{line}: {folder}/ includes {target}, which is to its right")
                    base = os.path.basename(target) if part not in ORDER else ""
                    if (CUDA.match(base) or CUDA.match(target)) and not path.startswith("kernels/cuda/"):
                        found.append(f"{path}:{line}: {target} is for kernels/cuda/ alone")
                    if (CLUSTER.match(base) or CLUSTER.match(target)) and not path.startswith("runtime/dist/"):
                        found.append(f"{path}:{line}: {target} is for runtime/dist/ alone")
                    if part == "tests":
                        found.append(f"{path}:{line}: {target} belongs to the tests")
    return found, files, includes


PLANTED = [  # file, text, whether it is an offence
    ("kernels/cpu/a.c", '#include "memory/plan.h"\n', True),
    ("memory/a.c", "  #  include <runtime/run/job.h>\n", True),
    ("infer/a.c", '#include "../train/loss.h"\n', True),
    ("train/a.c", '#include \\\n  "runtime/run/job.h"\n', True),
    ("memory/slab.c", "#include <cuda_runtime.h>\n", True),
    ("kernels/ops.h", "#include <cublasLt.h>\n", True),
    ("train/b.c", "#include <mpi.h>\n", True),
    ("kernels/cuda/all_reduce.cu", "#include <nccl.h>\n", True),
    ("runtime/b.c", '#include "tests/testing/cpu.h"\n', True),
    ("runtime/run/job.c", '#include "kernels/ops.h"\n#include "train/loss.h"\n#include <stdio.h>\n', False),
    ("kernels/cuda/a.cu", '#include <cuda_runtime.h>\n#include "kernels/cuda/common.cuh"\n', False),
    ("runtime/dist/nccl.c", "#include <mpi.h>\n#include <nccl.h>\n", False),
    ("kernels/b.c", '/* #include "memory/plan.h" */\n// #include "train/loss.h"\nconst char *s = "/*";\n', False),
    ("memory/fine.c", "#include <sys/mman.h>\n", False),
    ("kernels/c.c", 'const char *s = "/*";\n#include "infer/model.h"\n', True),
]


def self_test():
    wrong = 0
    for name, text, bad in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            for path in (name, "train/loss.h"):
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w") as f:
                    f.write(text if path == name else "")
            found, _, _ = offences_of(root)
            if bool(found) != bad:
                print(f"self-test: {name} with {text!r}: {found or 'nothing found'}")
                wrong += 1
    return wrong


def main():
    if "--self-test" in sys.argv and self_test():
        return 1
    found, files, includes = offences_of(sys.argv[1])
    print("\n".join(found + [f"{files} files, {includes} includes, {len(found)} offences"]))
    return 1 if found or files < 50 else 0  # a tree without files is not the tree


sys.exit(main())
