/* Times calls of the native runner without leaving C between two of them, and stands in for onnxruntime. */
#define _POSIX_C_SOURCE 199309L
#include <onnxruntime_c_api.h>
#include <time.h>

#include "eetoolkit.h"

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* Runs some rows one after the other and writes what each takes to its place; `warm`: the first of them once before. */
EE_API ee_code time_calls(ee_runner *runner, const ee_call *calls, const int64_t *rows, size_t count, int warm,
                          double *took_ms, ee_error *error) {
  const ee_answer *answer = NULL;
  ee_code code = warm ? ee_run(runner, &calls[rows[0]], &answer, error) : EE_OK;
  for (size_t place = 0; place < count && code == EE_OK; ++place) {
    const double start = now_ms();
    code = ee_run(runner, &calls[rows[place]], &answer, error);
    took_ms[rows[place]] = now_ms() - start;
  }
  return code;
}

static const OrtApiBase *real_base;
static OrtApi api;
static OrtStatusPtr(ORT_API_CALL *real_run)(OrtSession *, const OrtRunOptions *, const OrtIoBinding *);
static int is_hollow;

static OrtStatusPtr ORT_API_CALL run(OrtSession *session, const OrtRunOptions *options, const OrtIoBinding *binding) {
  return is_hollow ? NULL : real_run(session, options, binding);
}

static const OrtApi *ORT_API_CALL get_api(uint32_t version) {
  const OrtApi *real = real_base->GetApi(version);
  if (real == NULL) return NULL;
  api = *real;
  real_run = real->RunWithBinding;
  api.RunWithBinding = run;
  return &api;
}

static const char *ORT_API_CALL get_version(void) { return real_base->GetVersionString(); }

/* An onnxruntime whose runs do nothing while `set_hollow` says so: what a run leaves in its outputs stays there. */
EE_API const OrtApiBase *hollow_base(const OrtApiBase *real) {
  static const OrtApiBase base = {get_api, get_version};
  real_base = real;
  return &base;
}

EE_API void set_hollow(int hollow) { is_hollow = hollow; }
