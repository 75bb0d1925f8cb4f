#!/usr/bin/env bash
# PHP with the library preloaded: with its own allocator on top (large runs from mmap, the rest from malloc) and with
# every allocation coming to malloc. Debian's extensions are loaded with RTLD_DEEPBIND, and free what PHP itself has
# allocated.
source tests/programs/preloaded.sh "$@"
requires php

same extensions php -m
same churn php "$here/churn.php"
same malloc env USE_ZEND_ALLOC=0 php "$here/churn.php"
seen php $((3 * runs))
