#!/usr/bin/env bash
# Checks that every C and C++ file of the tree is formatted as the root's .clang-format says. Looks at the tree itself,
# not at what BUILD files list, so that no file is left out.
set -euo pipefail

tool=
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" > /dev/null; then
    tool=$candidate
    break
  fi
done
if [[ -z "$tool" ]]; then
  echo "clang-format is not installed: sudo apt-get install clang-format" >&2
  exit 1
fi

cd "$(dirname "$(realpath WORKSPACE)")"
mapfile -d '' files < <(find mi examples tests -type f \( -name '*.c' -o -name '*.h' -o -name '*.cc' \) -print0 | sort -z)
if ((${#files[@]} == 0)); then
  echo "no source files below $PWD" >&2
  exit 1
fi

bad=()
for file in "${files[@]}"; do
  "$tool" --style=file --dry-run -Werror "$file" 2> /dev/null || bad+=("$file")
done
if ((${#bad[@]} > 0)); then
  echo "${#bad[@]} of ${#files[@]} files are not formatted. To format them:" >&2
  echo "  $tool -i ${bad[*]}" >&2
  exit 1
fi
echo "${#files[@]} files"
