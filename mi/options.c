// The public functions over the table of options and the message callbacks in mi/internal/options.c.
#include <errno.h>

#include "mi/heap/parts.h"

static bool option_exists(mi_option_t option) {
  _mi_options_init();
  if ((int)option >= 0 && option < _mi_option_last) return true;
  _mi_error(EINVAL, "option %d does not exist\n", (int)option);
  return false;
}

long mi_option_get(mi_option_t option) { return (option_exists(option) ? _mi_option(option) : 0); }
long mi_option_get_clamp(mi_option_t option, long min, long max) {
  const long value = mi_option_get(option);
  return (value < min ? min : value > max ? max : value);
}
size_t mi_option_get_size(mi_option_t option) {
  if (!option_exists(option)) return 0;
  const long value = _mi_option(option);
  if (value <= 0) return 0;
  if ((_mi_options[option].flags & MI_OPTION_SIZE) == 0) return (size_t)value;
  return ((size_t)value > SIZE_MAX / 1024 ? SIZE_MAX : (size_t)value * 1024);
}
void mi_option_set(mi_option_t option, long value) {
  if (!option_exists(option)) return;
  mi_store_relaxed(&_mi_options[option].is_set, (uint8_t)1);
  mi_store_relaxed(&_mi_options[option].value, value);
  _mi_guarded_option(option);
}
void mi_option_set_default(mi_option_t option, long value) {
  if (option_exists(option) && mi_load_relaxed(&_mi_options[option].is_set) == 0) {
    mi_store_relaxed(&_mi_options[option].value, value);
    _mi_guarded_option(option);
  }
}
bool mi_option_is_enabled(mi_option_t option) { return mi_option_get(option) != 0; }
void mi_option_set_enabled(mi_option_t option, bool enable) { mi_option_set(option, enable ? 1 : 0); }
void mi_option_set_enabled_default(mi_option_t option, bool enable) { mi_option_set_default(option, enable ? 1 : 0); }
void mi_option_enable(mi_option_t option) { mi_option_set_enabled(option, true); }
void mi_option_disable(mi_option_t option) { mi_option_set_enabled(option, false); }

void mi_options_print_out(mi_output_fun* out, void* arg) {
  _mi_options_init();
  _mi_options_print(out, arg);
}
void mi_options_print(void) { mi_options_print_out(NULL, NULL); }

void mi_register_output(mi_output_fun* out, void* arg) {
  const mi_pair_t* const pair = _mi_pair_intern((mi_any_fun*)out, arg);
  if (pair != NULL || out == NULL) mi_store_release(&_mi_output_pair, pair);
}

void mi_register_error(mi_error_fun* fun, void* arg) {
  const mi_pair_t* const pair = _mi_pair_intern((mi_any_fun*)fun, arg);
  if (pair != NULL || fun == NULL) mi_store_release(&_mi_error_pair, pair);
}
