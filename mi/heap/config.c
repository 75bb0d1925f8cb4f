// Heaps made to order: the checks of a configuration, and the heap that it describes. What each field does is in the
// file of its policy; a policy that a heap does not ask for costs it nothing.
//
// A configuration is read whole before anything is made: what is refused leaves nothing behind.
#include <errno.h>
#include <string.h>

#include "mi/heap/deferred.h"
#include "mi/heap/table.h"
#include "mi/internal/arena.h"

// Flags that make a policy (policy.c), and those of them that this library has.
#define MI_HEAP_FLAGS_POLICY                                                                          \
  ((uint32_t)(MI_HEAP_HARDENED | MI_HEAP_GUARDED | MI_HEAP_QUARANTINE | MI_HEAP_WIPE | MI_HEAP_ZERO | \
              MI_HEAP_ISOLATED | MI_HEAP_SECRET))
#define MI_HEAP_FLAGS_KNOWN ((uint32_t)MI_HEAP_REPORT_SURVIVORS | MI_HEAP_FLAGS_POLICY)

static bool refuse(const char* field, unsigned long long value, const char* why) {
  _mi_error(EINVAL, "mi_heap_new_with: field %s is %llu: %s\n", field, value, why);
  return false;
}

// The configuration as this library knows it: the caller's header may be older (the rest is zero) or newer (the rest
// must be zero).
static bool config_read(const mi_heap_config_t* config, mi_heap_config_t* known) {
  const size_t size = config->size;
  if (size < sizeof(size_t) + sizeof(const char*)) return refuse("size", size, "expected sizeof(mi_heap_config_t)");
  for (size_t i = sizeof(*known); i < size; i++) {
    if (((const uint8_t*)config)[i] != 0) {
      _mi_error(EINVAL, "mi_heap_new_with: the field at byte %zu is not known to this library\n", i);
      return false;
    }
  }
  memset(known, 0, sizeof(*known));
  memcpy(known, config, size < sizeof(*known) ? size : sizeof(*known));
  return true;
}

static bool config_check(const mi_heap_config_t* config) {
  if (config->numa_node < 0 || config->numa_node > MI_NUMA_NODE_MAX + 1)
    return refuse("numa_node", (unsigned long long)(long long)config->numa_node, "no such node");
  if (config->arena != NULL && !_mi_arena_exists(config->arena))
    return refuse("arena", (uintptr_t)config->arena, "no arena");
  if ((config->flags & ~MI_HEAP_FLAGS_KNOWN) != 0) return refuse("flags", config->flags, "unknown or not supported");
  const char* const apart = _mi_isolated_refusal(config);
  if (apart != NULL) return refuse("flags", config->flags, apart);
  if ((config->required & ~(mi_protections_t)MI_PROTECTED_ALL) != 0)
    return refuse("required", config->required, "not a protection");
  if (config->deferred_free == NULL && config->deferred_arg != NULL)
    return refuse("deferred_arg", (uintptr_t)config->deferred_arg, "there is no deferred_free");
  if (config->parent != NULL) {
    const mi_thread_t* const thread = mi_thread();
    const char* const why = _mi_family_refusal(config->parent, thread == NULL ? NULL : thread->subproc);
    if (why != NULL) return refuse("parent", (uintptr_t)config->parent, why);
  }
  if (config->headroom != 0 && config->limit == 0) return refuse("headroom", config->headroom, "there is no limit");
  if (config->on_limit == NULL && config->limit_arg != NULL)
    return refuse("limit_arg", (uintptr_t)config->limit_arg, "there is no on_limit");
  if (config->min_align != 0 && config->min_align != 8 && config->min_align != 16)
    return refuse("min_align", config->min_align, "expected 0, 8 or 16");
  return true;
}

// Is there anything that a plain heap has not?
static bool config_has_deferred(const mi_heap_config_t* config) {
  return config->deferred_free != NULL || config->deferred_cadence != 0 || config->deferred_bytes != 0;
}
static bool config_has_limit(const mi_heap_config_t* config) {
  return config->limit != 0 || config->soft_limit != 0 || config->on_limit != NULL;
}
static bool config_is_plain(const mi_heap_config_t* config) {
  return config->name == NULL && config->numa_node == 0 && config->parent == NULL && config->retain == 0 &&
         (config->flags & MI_HEAP_FLAGS_POLICY) == 0 && config->min_align != 16 && !config_has_limit(config) &&
         !config_has_deferred(config);
}

static mi_noinline mi_heap_t* heap_new_with(const mi_heap_config_t* given) {
  mi_heap_config_t config;
  if (!config_read(given, &config) || !config_check(&config)) return NULL;
  if (config.parent != NULL && mi_thread() != NULL) _mi_heap_ids_renew(mi_thread());
  mi_name_t* const entry = (config.name == NULL || config.name[0] == 0 ? NULL : _mi_name_of(config.name));
  if (entry != NULL && mi_thread() != NULL) _mi_handle_prefer(mi_thread(), entry);
  const bool apart = (config.flags & (MI_HEAP_ISOLATED | MI_HEAP_SECRET)) != 0;
  mi_heap_t* const heap = (apart                  ? _mi_isolated_new(&config)
                           : config.arena == NULL ? mi_heap_new()
                                                  : mi_heap_new_in_arena(config.arena));
  if (heap == NULL) return NULL;
  if ((config.flags & MI_HEAP_REPORT_SURVIVORS) != 0) mi_heap_set_flags(heap, mi_heap_flags(heap) | MI_HEAP_REPORTS);
  if (config_is_plain(&config)) return (_mi_isolated_satisfies(heap, config.required) ? heap : NULL);
  mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
  if (extra == NULL || (config_has_deferred(&config) && !_mi_deferred_configure(heap, &config))) {
    mi_heap_destroy(heap);
    _mi_error(ENOMEM, "mi_heap_new_with: no memory for the configuration\n");
    return NULL;
  }
  if (config.name != NULL) {
    for (size_t i = 0; i + 1 < sizeof(extra->name) && config.name[i] != 0; i++) extra->name[i] = config.name[i];
    _mi_track_show(extra->name, sizeof(extra->name));
  }
  if (entry != NULL) _mi_heap_name_begin(heap, entry);
  if ((config.flags & MI_HEAP_FLAGS_POLICY) != 0) _mi_policy_begin(heap, config.flags & MI_HEAP_FLAGS_POLICY);
  extra->even = (config.min_align == 16);
  if (config_has_limit(&config)) _mi_limit_configure(extra, &config);
  if ((config.limit != 0 || config.parent != NULL) && mi_heap_has_regions(heap)) _mi_part_shut(&heap->home);
  _mi_prepared_begin(heap, &config);
  extra->retain = config.retain;
  extra->numa = (uint16_t)config.numa_node;
  if (config.parent != NULL && !_mi_family_join(heap, config.parent)) {
    mi_heap_register_deferred_free(heap, NULL, NULL);  // nobody has seen the heap
    mi_heap_destroy(heap);
    _mi_error(ENOMEM, "mi_heap_new_with: no memory for the family\n");
    return NULL;
  }
  return (_mi_isolated_satisfies(heap, config.required) ? heap : NULL);
}

mi_heap_t* mi_heap_new_with(const mi_heap_config_t* given) {
  if (given == NULL) return mi_heap_new();
  mi_thread_t* const thread = _mi_tls.thread;
  if (mi_likely(thread != NULL)) {
    mi_heap_t* const prepared = _mi_prepared_take(thread, given);
    if (mi_likely(prepared != NULL)) return prepared;
  }
  return heap_new_with(given);
}
