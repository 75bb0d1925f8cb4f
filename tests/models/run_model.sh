#!/usr/bin/env bash
# Checks one Promela model exhaustively, then every mutant that the model names; fails unless the model holds and each
# mutant breaks the claim that it was seeded to break. Knows nothing of what a model says: the model's lines tell it,
#     // STATES  N [-DSETTING...]                one search of the model, of N states at least (a vacuous model has few)
#     // MUTANT  NAME [-DSETTING...] | the claim that it must break (the start of its name) | how it differs
# Mutants are searched with -DSMALL, under which a model may set lower bounds. A truncated search (depth, memory, time)
# is a failure, and so is a missing tool.
#
# Usage: run_model.sh MODEL.pml            check the model and its mutants
#        run_model.sh MODEL.pml MUTANT     check one mutant only and print spin's replay of the interleaving
set -u

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

model=$(realpath "${1:?usage: run_model.sh MODEL.pml [MUTANT]}") || fail "no such model: $1"
only=${2:-}
for tool in spin gcc; do
  command -v "$tool" >/dev/null || fail "$tool is not on PATH; on Debian: apt-get install spin gcc"
done

work=$(mktemp -d "${TEST_TMPDIR:-/tmp}/model.XXXXXX") || fail "no temporary directory"
trap 'rm -rf "$work"' EXIT
cd "$work" || fail "cannot enter $work"

# build NAME FLAGS...: makes the verifier NAME/pan. Not optimised: that would take longer than it saves.
build() {
  local name=$1
  shift
  mkdir "$name"
  (
    cd "$name" || exit 1
    spin "$@" -a "$model" >spin.log 2>&1 || { cat spin.log; exit 1; }
    gcc -w -DSAFETY -DMEMLIM=2000 -o pan pan.c >gcc.log 2>&1 || { cat gcc.log; exit 1; }
  ) >&2 || fail "$name: the verifier could not be built"
}
complete() {
  grep -q 'State-vector' "$1.out" &&
    ! grep -Eq 'depth too small|out of memory|reached -DMEMLIM|hash table full|aborting|not completed' "$1.out"
}
errors() { sed -n 's/.*errors: \([0-9][0-9]*\).*/\1/p' "$1.out"; }
states() { sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$1.out"; }

mapfile -t searches < <(sed -n 's@^// STATES  *@@p' "$model")
mapfile -t mutants < <(sed -n 's@^// MUTANT  *@@p' "$model")
[ "${#searches[@]}" -ge 1 ] || fail "the model does not say how many states it has at least"
[ "${#mutants[@]}" -ge 3 ] || fail "the model names fewer than three mutants"

number=0
for search in "${searches[@]}"; do
  [ -n "$only" ] && break
  read -r least settings <<<"$search"
  number=$((number + 1))
  name=correct$number
  # shellcheck disable=SC2086  # settings are words
  build "$name" $settings
  (cd "$name" && timeout 200 ./pan -m200000 -w22 >"../$name.out" 2>&1)
  if grep -q 'errors: [1-9]' "$name.out"; then
    cat "$name.out" >&2
    # shellcheck disable=SC2086
    (cd "$name" && spin $settings -k "$(basename "$model").trail" -p -g "$model" | tail -n 150) >&2
    fail "the model breaks a claim"
  fi
  complete "$name" || { cat "$name.out" >&2; fail "the search was truncated"; }
  [ "$(states "$name" | awk '{printf "%d", $1}')" -ge "$least" ] ||
    fail "only $(states "$name") states, at least $least expected: the model no longer exercises what it says"
  echo "holds   $(basename "$model") $settings: $(states "$name") states," \
    "$(sed -n 's/.*depth reached \([0-9]*\).*/depth \1/p' "$name.out")"
done

found=0
for line in "${mutants[@]}"; do
  IFS='|' read -r name claim what <<<"$line"
  read -r name settings <<<"$name"
  claim=${claim// /}
  [ -n "$only" ] && [ "$only" != "$name" ] && continue
  found=1
  grep -Eq "^#if.*\b$name\b" "$model" || fail "mutant $name does not occur in the model"
  # shellcheck disable=SC2086
  build "$name" -DSMALL "-D$name" $settings
  if [ -n "$only" ]; then
    # shellcheck disable=SC2086
    (cd "$name" && ./pan -m200000 &&
      spin -DSMALL "-D$name" $settings -k "$(basename "$model").trail" -p -g "$model")
    continue
  fi
  # -c0: goes on after other claims were broken; the end of the pipe ends the search.
  if (cd "$name" && timeout 200 stdbuf -oL ./pan -m200000 -w22 -c0 2>&1) | tee "$name.out" |
    grep -q "assertion violated.*||$claim\\|^pan:.*$claim"; then
    echo "caught  $name breaks $claim"
  elif [ "$(errors "$name")" != 0 ]; then
    cat "$name.out" >&2
    fail "mutant $name does not break $claim, or the search was truncated before"
  else
    complete "$name" || { cat "$name.out" >&2; fail "$name: the search was truncated"; }
    fail "mutant $name passes: the model cannot tell that $what"
  fi
done
[ "$found" = 1 ] || fail "no such mutant: $only"
[ -n "$only" ] || echo "PASSED: $(basename "$model") and ${#mutants[@]} mutants"
