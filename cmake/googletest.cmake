# GoogleTest: an installed one (Debian: libgtest-dev), else its sources at a fixed tag.
# FETCHCONTENT_SOURCE_DIR_GOOGLETEST names a local copy where nothing can be fetched.

find_package(GTest QUIET)
if(NOT GTest_FOUND)
  message(STATUS "GoogleTest: not installed, fetching its sources")
  include(FetchContent)
  set(INSTALL_GTEST OFF)
  set(BUILD_GMOCK OFF)
  FetchContent_Declare(
    googletest
    GIT_REPOSITORY https://github.com/google/googletest.git
    GIT_TAG v1.14.0
    GIT_SHALLOW TRUE
    SYSTEM)
  FetchContent_MakeAvailable(googletest)
  if(NOT TARGET GTest::gtest_main)
    add_library(GTest::gtest_main ALIAS gtest_main)
  endif()
endif()
