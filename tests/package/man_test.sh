#!/usr/bin/env bash
# The manual says the truth: its pages are well formed, each prototype in them is the header's, each option that they
# name exists, what they refer to is installed, and their example runs.
source tests/package/support.sh
install_into "$prefix"
pages=$prefix/share/man/man3

for page in "$pages"/*.3; do
  mandoc -T lint -W warning "$page" || fail "$page"
done

# Each prototype once more after the header: a compiler takes both only if they agree.
{
  echo '#include <mimalloc-stats.h>'
  awk '
    /^\.Ft / { sub(/^\.Ft /, ""); type = $0 }
    /^\.Fn / && type != "" {
      sub(/^\.Fn /, "")
      name = $1
      sub(/^[^ ]* /, "")
      gsub(/" "/, ", ")
      gsub(/"/, "")
      print type " " name "(" $0 ");"
      type = ""
    }
  ' man/*.3
} > "$scratch/prototypes.c"
prototypes=$(grep -c '(' "$scratch/prototypes.c")
((prototypes > 60)) || fail "only $prototypes prototypes were found in the manual"
gcc -std=c11 -Wall -Wextra -Werror "-I$prefix/include" -fsyntax-only "$scratch/prototypes.c" || fail "prototypes"

# A function in a section NAME has a prototype in the same page, and its page is found under its name.
for page in man/*.3; do
  for name in $(sed -n '/^\.Sh SYNOPSIS/q; s/^\.Nm \([a-z_0-9]*\).*/\1/p' "$page"); do
    [[ -f "$pages/$name.3" ]] || fail "no page is found under $name"
    [[ "$page" == "man/$name.3" ]] || grep -qx "\.Fn $name .*" "$page" || fail "$page has no prototype of $name"
  done
done
for name in $(sed -n 's/^\.Xr \(mi[a-z_]*\) 3.*/\1/p' man/*.3 | sort -u); do
  [[ -f "$pages/$name.3" ]] || fail "the manual refers to $name(3), which is not there"
done
[[ "$(MANPATH=$prefix/share/man man -P cat mi_heap_destroy 2>&1)" == *"first-class heaps"* ]] || fail "man mi_heap_destroy"

{
  echo '#include <mimalloc.h>'
  echo 'static const mi_option_t options[] = {'
  grep -oh 'MIMALLOC_[A-Z_]*[A-Z]' man/*.3 | sort -u | sed 's/MIMALLOC_\(.*\)/mi_option_\L\1,/'
  echo '}; int main(void) { return options[0] == _mi_option_last; }'
} > "$scratch/options.c"
gcc -std=c11 -Wall -Wextra -Werror "-I$prefix/include" -fsyntax-only "$scratch/options.c" || fail "options"

sed -n '/^\.Sh EXAMPLES/,/^\.Ed/p' man/mimalloc.3 | grep -v '^\.' > "$scratch/example.c"
c example "$scratch/example.c" "$prefix/lib/libmimalloc.a"
prints "request 1" "$scratch/example"
