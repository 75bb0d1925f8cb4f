#!/usr/bin/env bash
# Gcc and g++ with the library preloaded, compiling the library itself and a C++ file that is all templates: the
# compiler proper (cc1, cc1plus), the assembler and the linker are preloaded too, and their results are byte for byte
# those made without.
source tests/programs/preloaded.sh "$@"
requires gcc g++

same library bash "$here/compile.sh" "$PWD"
same_files library libcompiled.so templates.o
seen gcc
seen cc1 15
seen as 15
seen cc1plus
seen ld
