// mi_heap_dump_svg: the picture is well formed and shows each page and region, with the blocks that are live.
#include <expat.h>

#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct Picture {
  bool well_formed = false;
  size_t squares = 0, blocks = 0;
  std::vector<std::string> texts;
  std::string text;
  bool Says(const std::string& what) const {
    for (const std::string& t : texts) {
      if (t.find(what) != std::string::npos) return true;
    }
    return false;
  }
};

void OnStart(void* data, const XML_Char* name, const XML_Char** attributes) {
  Picture* picture = static_cast<Picture*>(data);
  picture->text.clear();
  if (strcmp(name, "rect") != 0) return;
  for (const XML_Char** a = attributes; *a != nullptr; a += 2) {
    if (strcmp(a[0], "fill") == 0 && strncmp(a[1], "hsl(", 4) == 0) picture->squares++;
  }
}
void OnText(void* data, const XML_Char* text, int length) {
  static_cast<Picture*>(data)->text.append(text, static_cast<size_t>(length));
}
void OnEnd(void* data, const XML_Char* name) {
  Picture* picture = static_cast<Picture*>(data);
  if (strcmp(name, "text") == 0) picture->texts.push_back(picture->text);
  if (strcmp(name, "title") == 0) picture->blocks += strtoull(picture->text.c_str(), nullptr, 10);
}

Picture PictureOf(mi_heap_t* heap) {
  FILE* file = tmpfile();
  EXPECT_TRUE(mi_heap_dump_svg(heap, fileno(file)));
  rewind(file);
  Picture picture;
  XML_Parser parser = XML_ParserCreate(nullptr);
  XML_SetUserData(parser, &picture);
  XML_SetElementHandler(parser, OnStart, OnEnd);
  XML_SetCharacterDataHandler(parser, OnText);
  picture.well_formed = true;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), file)) > 0;) {
    if (XML_Parse(parser, buffer, static_cast<int>(n), 0) != XML_STATUS_OK) picture.well_formed = false;
  }
  if (XML_Parse(parser, buffer, 0, 1) != XML_STATUS_OK) picture.well_formed = false;
  XML_ParserFree(parser);
  fclose(file);
  return picture;
}

size_t AreasOf(mi_heap_t* heap) {
  size_t areas = 0;
  mi_heap_visit_blocks(
      heap, false,
      [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
        ++*static_cast<size_t*>(arg);
        return true;
      },
      &areas);
  return areas;
}

TEST(PictureTest, HasASquareForEachPageAndRegionAndAllTheirBlocks) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = "a <name> & \"more\" \x01\xff";
  mi_heap_t* heap = mi_heap_new_with(&config);
  size_t blocks = 0;
  for (size_t size : {20, 64, 64, 900, 5000, 100000, 6000000}) {
    for (size_t i = 0; i < 200000 / size + 1; i++, blocks++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
  }
  for (int i = 0; i < 100; i++) mi_free(mi_heap_malloc(heap, 3000));
  Picture picture = PictureOf(heap);
  EXPECT_TRUE(picture.well_formed);
  EXPECT_EQ(picture.squares, AreasOf(heap));
  EXPECT_EQ(picture.blocks, blocks);
  EXPECT_TRUE(picture.Says("a <name> & \"more\" ??"));
  EXPECT_EQ(picture.Says("regions: "), !kSecure);
  EXPECT_TRUE(picture.Says(std::to_string(blocks) + " blocks"));
  mi_heap_destroy(heap);
}

TEST(PictureTest, OfAnEmptyHeapIsEmpty) {
  mi_heap_t* heap = mi_heap_new();
  Picture picture = PictureOf(heap);
  EXPECT_TRUE(picture.well_formed);
  EXPECT_EQ(picture.squares, 0u);
  EXPECT_TRUE(picture.Says("0 blocks"));
  mi_heap_destroy(heap);
}

TEST(PictureTest, OfALargeHeapHasSquaresThatStandForSeveralPages) {
  mi_heap_t* heap = mi_heap_new();
  constexpr size_t kBlocks = 20000;
  for (size_t i = 0; i < kBlocks; i++) ASSERT_NE(mi_heap_malloc(heap, 70000), nullptr);
  Picture picture = PictureOf(heap);
  EXPECT_TRUE(picture.well_formed);
  EXPECT_LE(picture.squares, 16384u);
  EXPECT_EQ(picture.blocks, kBlocks);
  EXPECT_TRUE(picture.Says("a square is 2 pages"));
  mi_heap_destroy(heap);
}

TEST(PictureTest, WhatCannotBeWrittenIsToldAndWhatIsNoHeapRefused) {
  ErrorRecorder recorder;
  mi_heap_t* heap = mi_heap_new();
  errno = 0;
  EXPECT_FALSE(mi_heap_dump_svg(heap, -1));
  EXPECT_EQ(errno, EBADF);
  int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  EXPECT_FALSE(mi_heap_dump_svg(heap, full));
  EXPECT_EQ(errno, ENOSPC);
  close(full);
  EXPECT_EQ(recorder.total(), 0);
  EXPECT_FALSE(mi_heap_dump_svg(nullptr, 1));
  EXPECT_EQ(recorder.errors(), std::vector<int>{EINVAL});
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace mi_test
