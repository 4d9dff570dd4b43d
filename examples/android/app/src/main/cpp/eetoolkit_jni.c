/* What `Model` in Model.kt calls: a bundle and one runner over it, for one thread at a time. */
#include <jni.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eetoolkit.h"

#define MOST_DIMENSIONS 8

typedef struct {
  ee_error *error;
  ee_bundle *bundle;
  ee_runner *runner;
  ee_tensor input;
  int64_t shape[MOST_DIMENSIONS];
} Model;

static Model *model_of(jlong handle) { return (Model *)(intptr_t)handle; }

static void throw_error(JNIEnv *env, const char *text) {
  jclass type = (*env)->FindClass(env, "java/lang/IllegalStateException");
  if (type != NULL) (*env)->ThrowNew(env, type, text);
}

static void free_model(Model *model) {
  if (model == NULL) return;
  ee_runner_free(model->runner);
  ee_bundle_free(model->bundle);
  ee_error_free(model->error);
  free(model);
}

JNIEXPORT jlong JNICALL Java_org_eetoolkit_example_Model_open(JNIEnv *env, jobject self, jstring folder) {
  (void)self;
  Model *model = calloc(1, sizeof *model);
  const char *path = (*env)->GetStringUTFChars(env, folder, NULL);
  if (model == NULL || path == NULL) {
    free(model);
    return 0; /* of the path, the machine has thrown */
  }
  model->error = ee_error_new();
  ee_code code = ee_bundle_open(path, NULL, &model->bundle, model->error);
  if (code == EE_OK) code = ee_runner_new(model->bundle, &model->runner, model->error);
  (*env)->ReleaseStringUTFChars(env, folder, path);
  const char *fault = code != EE_OK ? ee_error_text(model->error) : NULL;
  if (code == EE_OK) {
    model->input = ee_bundle_input(model->bundle, 0);
    if (ee_bundle_input_count(model->bundle) != 1 || model->input.rank > MOST_DIMENSIONS) fault = "expected one input";
    for (size_t axis = 0; fault == NULL && axis < model->input.rank; ++axis) {
      model->shape[axis] = axis == 0 ? 1 : model->input.shape[axis];
    }
    model->input.shape = model->shape;
  }
  if (fault != NULL) {
    throw_error(env, fault);
    free_model(model);
    return 0;
  }
  return (jlong)(intptr_t)model;
}

JNIEXPORT void JNICALL Java_org_eetoolkit_example_Model_free(JNIEnv *env, jobject self, jlong handle) {
  (void)env;
  (void)self;
  free_model(model_of(handle));
}

JNIEXPORT jlongArray JNICALL Java_org_eetoolkit_example_Model_shape(JNIEnv *env, jobject self, jlong handle) {
  (void)self;
  Model *model = model_of(handle);
  jlongArray shape = (*env)->NewLongArray(env, (jsize)model->input.rank);
  for (size_t axis = 0; shape != NULL && axis < model->input.rank; ++axis) {
    const jlong size = (jlong)model->shape[axis];
    (*env)->SetLongArrayRegion(env, shape, (jsize)axis, 1, &size);
  }
  return shape;
}

/* `data` is a direct buffer: bytes of pixels where `pixels` is set, else float32. */
JNIEXPORT jobject JNICALL Java_org_eetoolkit_example_Model_run(JNIEnv *env, jobject self, jlong handle, jobject data,
                                                               jboolean pixels) {
  (void)self;
  Model *model = model_of(handle);
  ee_tensor input = model->input;
  input.dtype = pixels ? EE_UINT8 : EE_FLOAT32;
  input.data = (*env)->GetDirectBufferAddress(env, data);
  input.size_bytes = (size_t)(*env)->GetDirectBufferCapacity(env, data) * (pixels ? 1 : sizeof(float));
  ee_call call;
  memset(&call, 0, sizeof call);
  call.size = sizeof call;
  call.inputs = &input;
  call.input_count = 1;
  const ee_answer *answer = NULL;
  if (ee_run(model->runner, &call, &answer, model->error) != EE_OK) {
    throw_error(env, ee_error_text(model->error));
    return NULL;
  }
  const char *label = ee_bundle_label(model->bundle, answer->prediction);
  jclass type = (*env)->FindClass(env, "org/eetoolkit/example/Answer");
  if (type == NULL) return NULL;
  jmethodID make = (*env)->GetMethodID(env, type, "<init>", "(Ljava/lang/String;Ljava/lang/String;JF)V");
  jstring exit = (*env)->NewStringUTF(env, answer->exit);
  jstring name = label == NULL ? NULL : (*env)->NewStringUTF(env, label);
  if (make == NULL || exit == NULL) return NULL;
  return (*env)->NewObject(env, type, make, exit, name, (jlong)answer->prediction, (jfloat)answer->confidence);
}
