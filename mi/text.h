// Text that is written into a buffer of the caller's, and measured beyond its end. Nothing here allocates.
#pragma once
#ifndef MI_TEXT_H
#define MI_TEXT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct mi_text_s {
  char* buf;
  size_t size;
  size_t length;  // of the whole text, also of what did not fit
} mi_text_t;

static inline __attribute__((format(printf, 2, 3))) void mi_text_append(mi_text_t* text, const char* format, ...) {
  const size_t room = (text->length < text->size ? text->size - text->length : 0);
  va_list args;
  va_start(args, format);
  const int n = vsnprintf(room > 0 ? text->buf + text->length : NULL, room, format, args);
  va_end(args);
  if (n > 0) text->length += (size_t)n;
}

// The length of the UTF-8 character at `s`; 0 if there is none.
static inline size_t mi_text_character(const uint8_t* s) {
  const size_t length = (s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0);
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xc0) != 0x80) return 0;
  }
  if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0)) return 0;  // overlong; surrogates
  if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90)) return 0;  // overlong; beyond Unicode
  return length;
}

// A string as JSON has it. What is no UTF-8 is taken for Latin-1.
static inline void mi_text_append_json(mi_text_t* text, const char* string) {
  mi_text_append(text, "\"");
  for (const uint8_t* s = (const uint8_t*)string; *s != 0;) {
    const size_t length = mi_text_character(s);
    if (length == 0 || *s < 0x20 || *s == '"' || *s == '\\') {
      mi_text_append(text, "\\u%04x", *s);
      s++;
    } else {
      mi_text_append(text, "%.*s", (int)length, (const char*)s);
      s += length;
    }
  }
  mi_text_append(text, "\"");
}

#endif
