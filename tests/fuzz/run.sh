#!/usr/bin/env bash
# Runs what it is given: a program that replays inputs (replay.cc).
exec "$@"
