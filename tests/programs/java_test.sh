#!/usr/bin/env bash
# Java with the library preloaded: the compiler, hello, and threads that churn the garbage collector, direct buffers,
# native compression and class loaders, under three collectors.
source tests/programs/preloaded.sh "$@"
requires java javac

mkdir "$scratch/classes"
preloaded javac -d "$scratch/classes" "$here/Hello.java" "$here/Churn.java" || fail "javac ends with $?"
same hello java -cp "$scratch/classes" Hello
for collector in Serial Parallel G1; do
  same "$collector" java -Xmx256m "-XX:+Use${collector}GC" -cp "$scratch/classes" Churn
done
seen javac
seen java $((4 * runs))
