// A picture of a heap: a square for each page or region, by the size of its blocks, the darker the fuller. Drawn from a
// visit into a table outside of any heap, then written in small pieces: nothing here allocates in the library.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "mi/heap/parts.h"
#include "mi/internal/os.h"
#include "mi/text.h"

#define COLUMNS 64
#define CELL 14          // pixels, with the gap behind it
#define LABEL 120        // pixels, left of the cells
#define HEAD 60          // pixels, above them
#define CELLS_MAX 16384  // of larger heaps, a cell stands for several pages of a size

typedef struct area_s {
  size_t block_size;  // 0: a region
  size_t blocks;      // live
  size_t bytes;       // in them
  size_t room;        // bytes that could be
} area_t;

typedef struct picture_s {
  mi_heap_t* heap;
  area_t* areas;
  size_t count, capacity;
  bool ok;
  int fd;
  size_t used;
  char buffer[4096];
} picture_t;

// --- gathering ----------------------------------------------------------------------------------------------------

static bool picture_add(picture_t* picture, const mi_heap_area_t* area) {
  if (picture->count == picture->capacity) {
    const size_t next = (picture->capacity == 0 ? 1024 : 2 * picture->capacity);
    area_t* const grown = _mi_os_alloc(next * sizeof(area_t));
    if (grown == NULL) return false;
    if (picture->capacity > 0) {
      memcpy(grown, picture->areas, picture->count * sizeof(area_t));
      _mi_os_free(picture->areas, picture->capacity * sizeof(area_t));
    }
    picture->areas = grown;
    picture->capacity = next;
  }
  picture->areas[picture->count++] = (area_t){.block_size = area->block_size, .room = area->reserved};
  return true;
}

static bool add_shown(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  (void)heap;
  picture_t* const picture = arg;
  if (block == NULL) {
    picture->ok = picture_add(picture, area);
    return picture->ok;
  }
  area_t* const last = &picture->areas[picture->count - 1];
  last->blocks++;
  last->bytes += (area->block_size != 0 ? area->block_size : size);
  return true;
}

static bool comes_before(const area_t* a, const area_t* b) {
  if (a->block_size != b->block_size) return a->block_size < b->block_size;
  return a->bytes * b->room > b->bytes * a->room;  // fuller ones first
}

static void sift_down(area_t* areas, size_t root, size_t count) {
  for (size_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && comes_before(&areas[child], &areas[child + 1])) child++;
    if (!comes_before(&areas[root], &areas[child])) return;
    const area_t swapped = areas[root];
    areas[root] = areas[child];
    areas[child] = swapped;
  }
}

static void areas_sort(area_t* areas, size_t count) {
  for (size_t i = count / 2; i-- > 0;) sift_down(areas, i, count);
  for (size_t end = count; end-- > 1;) {
    const area_t largest = areas[0];
    areas[0] = areas[end];
    areas[end] = largest;
    sift_down(areas, 0, end);
  }
}

// --- writing ------------------------------------------------------------------------------------------------------

static void flush(picture_t* picture) {
  size_t done = 0;
  while (picture->ok && done < picture->used) {
    const ssize_t n = write(picture->fd, picture->buffer + done, picture->used - done);
    if (n > 0) {
      done += (size_t)n;
    } else if (n == 0 || errno != EINTR) {
      picture->ok = false;
    }
  }
  picture->used = 0;
}

static __attribute__((format(printf, 2, 3))) void put(picture_t* picture, const char* format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  const int n = vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  const size_t length = (n < 0 ? 0 : (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
  if (picture->used + length > sizeof(picture->buffer)) flush(picture);
  memcpy(picture->buffer + picture->used, line, length);
  picture->used += length;
}

// A name in XML: what has a meaning there, or is no printable ASCII, by its number or not at all.
static void put_name(picture_t* picture, const char* name) {
  for (const uint8_t* s = (const uint8_t*)name; *s != 0; s++) {
    if (*s == '<' || *s == '>' || *s == '&' || *s == '"') {
      put(picture, "&#%u;", *s);
    } else if (*s < 0x20 || *s >= 0x7f) {
      put(picture, "?");
    } else {
      put(picture, "%c", *s);
    }
  }
}

// Cells for the areas [from, to), which have blocks of one size, from the line `y` on. Returns the line below.
static size_t put_size(picture_t* picture, size_t from, size_t to, size_t merge, size_t y) {
  const size_t size = picture->areas[from].block_size;
  if (size == 0) {
    put(picture, "<text x=\"4\" y=\"%zu\">regions: %zu</text>\n", y + CELL - 4, to - from);
  } else {
    put(picture, "<text x=\"4\" y=\"%zu\">%zu B: %zu</text>\n", y + CELL - 4, size, to - from);
  }
  size_t cell = 0;
  for (size_t i = from; i < to; cell++) {
    const size_t first = i;
    area_t sum = {0};
    for (; i < to && i < first + merge; i++) {
      sum.blocks += picture->areas[i].blocks;
      sum.bytes += picture->areas[i].bytes;
      sum.room += picture->areas[i].room;
    }
    if (cell > 0 && cell % COLUMNS == 0) y += CELL;
    const unsigned percent = (sum.room == 0 ? 0 : (unsigned)(sum.bytes * 100 / sum.room));
    put(picture,
        "<rect x=\"%zu\" y=\"%zu\" width=\"%d\" height=\"%d\" fill=\"hsl(210,70%%,%u%%)\"><title>%zu blocks, %u %% of "
        "%zu KiB</title></rect>\n",
        LABEL + cell % COLUMNS * CELL, y, CELL - 2, CELL - 2, 95 - percent * 65 / 100, sum.blocks, percent,
        sum.room / MI_KiB);
  }
  return y + CELL;
}

static size_t size_end(const picture_t* picture, size_t from) {
  size_t to = from;
  while (to < picture->count && picture->areas[to].block_size == picture->areas[from].block_size) to++;
  return to;
}

static void put_picture(picture_t* picture) {
  const size_t merge = picture->count / CELLS_MAX + 1;
  size_t height = HEAD, blocks = 0, bytes = 0, room = 0;
  for (size_t from = 0, to; from < picture->count; from = to) {
    to = size_end(picture, from);
    height += ((to - from + merge - 1) / merge + COLUMNS - 1) / COLUMNS * CELL;
  }
  for (size_t i = 0; i < picture->count; i++) {
    blocks += picture->areas[i].blocks;
    bytes += picture->areas[i].bytes;
    room += picture->areas[i].room;
  }
  put(picture,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%zu\" font-family=\"sans-serif\" "
      "font-size=\"10\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"4\" y=\"20\" "
      "font-size=\"14\">heap %p ",
      LABEL + COLUMNS * CELL + 10, height + 10, (void*)picture->heap);
  put_name(picture, mi_heap_name(picture->heap));
  put(picture, "</text>\n<text x=\"4\" y=\"38\">%zu blocks, %zu bytes in %zu KiB; darker is fuller", blocks, bytes,
      room / MI_KiB);
  if (merge > 1) put(picture, "; a square is %zu pages", merge);
  put(picture, "</text>\n");
  size_t y = HEAD;
  for (size_t from = 0, to; from < picture->count; from = to) {
    to = size_end(picture, from);
    y = put_size(picture, from, to, merge, y);
  }
  put(picture, "</svg>\n");
  flush(picture);
}

bool mi_heap_dump_svg(mi_heap_t* heap, int fd) {
  picture_t picture;
  picture.heap = heap;
  picture.areas = NULL;
  picture.count = picture.capacity = picture.used = 0;
  picture.ok = true;
  picture.fd = fd;
  if (!mi_heap_visit_blocks(heap, true, add_shown, &picture)) {
    if (!picture.ok) errno = ENOMEM;
    picture.ok = false;
  }
  if (picture.ok) {
    areas_sort(picture.areas, picture.count);
    put_picture(&picture);
  }
  const int error = errno;
  if (picture.capacity > 0) _mi_os_free(picture.areas, picture.capacity * sizeof(area_t));
  if (!picture.ok) errno = error;
  return picture.ok;
}
