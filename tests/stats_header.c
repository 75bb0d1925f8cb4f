// The statistics header in a C11 program: what it declares has the same layout there as in C++, and the macro works
// at file scope and in a function.
#include "mi/mimalloc-stats.h"

mi_stats_t_decl(stats_header_global);

size_t stats_header_size(void);
size_t stats_header_last_offset(void);
bool stats_header_query(mi_stats_t* out);

size_t stats_header_size(void) { return sizeof(mi_stats_t); }
size_t stats_header_last_offset(void) { return offsetof(mi_stats_t, chunk_bins); }
bool stats_header_query(mi_stats_t* out) {
  mi_stats_t_decl(local);
  if (!mi_stats_get(&local) || !mi_stats_get(&stats_header_global)) return false;
  *out = local;
  return true;
}
