#include "tests/api_table.inc"
