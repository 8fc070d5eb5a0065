# Interface targets that carry the flags, and the two functions that make our libraries and tests.

add_library(tandem_flags INTERFACE)
target_compile_options(tandem_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla -Wpointer-arith -Wno-unknown-pragmas
  -ffp-contract=off           # exactness is a promise: a fused multiply-add stands in the code or nowhere
  -fno-math-errno -fvisibility=hidden
  $<$<C_COMPILER_ID:Clang,AppleClang>:-Wno-string-conversion> # TDM_ASSERT(!"why") is how an impossible case says so
  $<$<BOOL:${TANDEM_WERROR}>:-Werror>)
target_compile_definitions(tandem_flags INTERFACE _GNU_SOURCE)
if(TANDEM_SANITIZE)
  target_compile_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  target_link_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE})
endif()

# tandem_library(NAME SOURCES... ): the static library tandem_NAME, alias tandem::NAME.
# Includes are written from the project's root ("memory/plan.h"), so a reader and the layering test see the folder.
function(tandem_library name)
  add_library(tandem_${name} STATIC ${ARGN})
  add_library(tandem::${name} ALIAS tandem_${name})
  target_include_directories(tandem_${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(tandem_${name} PUBLIC tandem_flags m)
endfunction()

# tandem_tests(FOLDER LIBRARY): one test for each tests/FOLDER/test_*.c, linked with tandem::LIBRARY.
# The file's head names its labels: "labels: unit, golden". No line means unit. A line "timeout: SECONDS" lengthens the limit.
function(tandem_tests folder library)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/test_*.c)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE tandem::${library} tandem_testing PkgConfig::cmocka)
    add_test(NAME ${folder}.${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    file(STRINGS ${source} head LIMIT_COUNT 12)
    set(labels unit)
    set(timeout 120)
    foreach(line IN LISTS head)
      if(line MATCHES "labels: ([a-z0-9, ]+)")
        string(REGEX REPLACE "[, ]+" ";" labels "${CMAKE_MATCH_1}")
      endif()
      if(line MATCHES "timeout: ([0-9]+)")
        set(timeout ${CMAKE_MATCH_1})
      endif()
    endforeach()
    set_tests_properties(${folder}.${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# tandem_cuda_tests(FOLDER): the tests of tests/FOLDER once more on the CUDA backend alone, as cuda.NAME with the label cuda. Where
# there is no device they end as skipped.
function(tandem_cuda_tests folder)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${folder}/test_*.c)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    add_test(NAME cuda.${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(cuda.${name} PROPERTIES LABELS cuda TIMEOUT 300 SKIP_RETURN_CODE 77 RUN_SERIAL ON
      ENVIRONMENT "TANDEM_TEST_BACKENDS=cuda")
  endforeach()
endfunction()
