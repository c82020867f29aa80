#!/usr/bin/env python3
"""Static stand-ins for CUDA's libraries: every function that the crate cudarc declares, as a jump into the real library,
which is opened at the first call. Where it is missing, a call returns the library's own "not there".

usage: cuda-stubs.py CUDARC_SRC TMP OUT
"""
import pathlib
import re
import subprocess
import sys

# cudarc's module, name to link with, name to open, what a call returns where that is missing
LIBRARIES = [
    ("driver", "cuda", "libcuda.so.1", 34),  # CUDA_ERROR_STUB_LIBRARY
    ("cublas", "cublas", "libcublas.so.13", 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    ("cublaslt", "cublasLt", "libcublasLt.so.13", 1),
    ("curand", "curand", "libcurand.so.10", 101),  # CURAND_STATUS_NOT_INITIALIZED
    ("nvrtc", "nvrtc", "libnvrtc.so.13", 11),  # NVRTC_ERROR_INTERNAL_ERROR
]

C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
static const char *const names[] = {%(names)s};
__attribute__((used)) static void *found[sizeof names / sizeof *names];
static int missing(void) { return %(missing)d; }
__attribute__((used)) static void *look_up(long index) {
    void *library = dlopen("%(soname)s", RTLD_NOW), *function = library ? dlsym(library, names[index]) : 0;
    if (!function) function = (void *)missing;
    __atomic_store_n(&found[index], function, __ATOMIC_RELEASE);
    return function;
}
"""

# Looks a function up while every register an argument may be in is kept; its index lies above the return address.
FIRST = """
first:
  push %rbp; mov %rsp, %rbp; push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %rax
  sub $128, %rsp
""" + "".join(f"  movups %xmm{i}, {16 * i}(%rsp)\n" for i in range(8)) + """
  mov 8(%rbp), %rdi
  call look_up
  mov %rax, %r11
""" + "".join(f"  movups {16 * i}(%rsp), %xmm{i}\n" for i in range(8)) + """
  add $128, %rsp
  pop %rax; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi; pop %rbp
  add $8, %rsp
  jmp *%r11
"""

STUB = """
.globl {name}
.type {name}, @function
{name}: mov found+8*{index}(%rip), %r11; test %r11, %r11; jz 1f; jmp *%r11
1: push ${index}; jmp first
"""


def main():
    source, tmp, out = map(pathlib.Path, sys.argv[1:])
    for module, library, soname, missing in LIBRARIES:
        text = (source / module / "sys" / "mod.rs").read_text()
        names = sorted(set(re.findall(r'load::<_F>\("(\w+)"', text)))
        if not names:
            sys.exit(f"no functions found in cudarc's {module}")
        asm = FIRST + "".join(STUB.format(name=name, index=index) for index, name in enumerate(names))
        c = C % {"names": ",".join(f'"{name}"' for name in names), "missing": missing, "soname": soname}
        c += "".join(f'__asm__("{line}\\n");\n' for line in asm.splitlines() if line)
        path = tmp / f"{library}.c"
        path.write_text(c)
        subprocess.run(["gcc", "-c", "-O2", "-fPIC", "-o", path.with_suffix(".o"), path], check=True)
        archive = out / f"lib{library}.a"
        archive.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", archive, path.with_suffix(".o")], check=True)
        print(f"{soname}: {len(names)} functions")


main()
