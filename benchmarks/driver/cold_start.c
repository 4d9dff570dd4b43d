/* Prints what the first answer takes in a process without Python, in milliseconds, from before anything is opened: with
 * onnxruntime's environment, which every program makes once, and without it.
 *
 *     cold_start bundle|whole ONNXRUNTIME PATH DTYPE ROW DIMENSION...
 *
 * onnxruntime's library is loaded before; the bundle's folder or the ONNX file, the session and the run are timed.
 */
#define _POSIX_C_SOURCE 199309L
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "eetoolkit.h"

#define MOST_DIMENSIONS 8

static const OrtApi *ort;

static void stop(const char *why) {
  fprintf(stderr, "cold_start: %s\n", why);
  exit(1);
}

static void check(OrtStatus *status) {
  if (status != NULL) stop(ort->GetErrorMessage(status));
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void answer_bundle(const OrtApiBase *base, const char *folder, ee_tensor tensor) {
  ee_error *error = ee_error_new();
  ee_options options = {.size = sizeof options, .ort_api_base = base};
  ee_bundle *bundle = NULL;
  ee_runner *runner = NULL;
  const ee_answer *answer = NULL;
  if (ee_bundle_open(folder, &options, &bundle, error) != EE_OK) stop(ee_error_text(error));
  tensor.name = ee_bundle_input(bundle, 0).name;
  ee_call call = {.size = sizeof call, .inputs = &tensor, .input_count = 1};
  if (ee_runner_new(bundle, &runner, error) != EE_OK || ee_run(runner, &call, &answer, error) != EE_OK) {
    stop(ee_error_text(error));
  }
  if (strcmp(answer->exit, ee_bundle_exit(bundle, 0)) != 0) stop("the first exit did not answer");
}

static void answer_whole(OrtEnv *env, const char *file, ee_tensor tensor) {
  OrtSessionOptions *options = NULL;
  OrtSession *session = NULL;
  OrtAllocator *allocator = NULL;
  OrtMemoryInfo *memory = NULL;
  OrtValue *value = NULL, *outputs[64] = {NULL};
  char *input = NULL;
  const char *names[64];
  size_t count = 0;
  check(ort->CreateSessionOptions(&options));
  check(ort->CreateSession(env, file, options, &session));
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->SessionGetInputName(session, 0, allocator, &input));
  check(ort->SessionGetOutputCount(session, &count));
  if (count > 64) stop("more than 64 outputs");
  for (size_t place = 0; place < count; ++place) {
    char *name = NULL;
    check(ort->SessionGetOutputName(session, place, allocator, &name));
    names[place] = name;
  }
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  const ONNXTensorElementDataType type =
      tensor.dtype == EE_INT64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  check(ort->CreateTensorWithDataAsOrtValue(memory, (void *)tensor.data, tensor.size_bytes, tensor.shape, tensor.rank,
                                            type, &value));
  const char *const inputs[] = {input};
  const OrtValue *const values[] = {value};
  check(ort->Run(session, NULL, inputs, values, 1, names, count, outputs));
}

int main(int count, char **arguments) {
  if (count < 7 || count > 6 + MOST_DIMENSIONS) stop("bundle|whole ONNXRUNTIME PATH DTYPE ROW DIMENSION...");
  int64_t shape[MOST_DIMENSIONS];
  ee_tensor tensor = {.shape = shape, .rank = (size_t)count - 6};
  tensor.dtype = strcmp(arguments[4], "int64") == 0 ? EE_INT64 : EE_FLOAT32;
  tensor.size_bytes = ee_dtype_bytes(tensor.dtype);
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    shape[axis] = atoll(arguments[6 + axis]);
    tensor.size_bytes *= (size_t)shape[axis];
  }
  void *data = malloc(tensor.size_bytes);
  FILE *row = fopen(arguments[5], "rb");
  if (data == NULL || row == NULL || fread(data, 1, tensor.size_bytes, row) != tensor.size_bytes) stop("no such row");
  tensor.data = data;
  void *library = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) stop(dlerror());
  const OrtApiBase *(*get)(void) = NULL;
  *(void **)&get = dlsym(library, "OrtGetApiBase");
  if (get == NULL) stop("no OrtGetApiBase");
  ort = get()->GetApi(ORT_API_VERSION);
  const double start = now_ms();
  OrtEnv *env = NULL;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "cold", &env)); /* one per process, so the runner's is the same */
  const double opened = now_ms();
  if (strcmp(arguments[1], "bundle") == 0) answer_bundle(get(), arguments[3], tensor);
  else answer_whole(env, arguments[3], tensor);
  const double end = now_ms();
  printf("%.4f %.4f\n", end - start, end - opened);
  return 0;
}
