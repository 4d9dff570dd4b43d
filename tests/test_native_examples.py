"""The native runner's examples and its header: compiled, and run as far as this machine can."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import native_build
import numpy as np
import pytest
from native_build import FOLDER, run

import eetoolkit as ee

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CHAIN = ROOT / "runtime" / "conformance" / "cases" / "chain" / "bundle"
STRICT = ("-Wall", "-Wextra", "-pedantic", "-Werror")
pytestmark = pytest.mark.skipif(bool(native_build.why_not()), reason=native_build.why_not())
needs_java = pytest.mark.skipif(shutil.which("javac") is None, reason="there is no javac, so no jni.h")

# What Model.kt is, for the Java virtual machine of a computer: the same names, which the glue is linked by.
STAND_IN = """
package org.eetoolkit.example;
import java.nio.*;
import java.util.*;

class Answer {
    final String exit, label; final long prediction; final float confidence;
    Answer(String exit, String label, long prediction, float confidence) {
        this.exit = exit; this.label = label; this.prediction = prediction; this.confidence = confidence;
    }
}

class Model {
    static { System.loadLibrary("eetoolkit_jni"); }
    native long open(String folder);
    native void free(long handle);
    native long[] shape(long handle);
    native Answer run(long handle, Object data, boolean pixels);

    public static void main(String[] given) {
        Model model = new Model();
        try {
            model.open("none.ee");
        } catch (IllegalStateException error) {
            System.out.println(error.getMessage());
        }
        long handle = model.open(given[0]);
        System.out.println(Arrays.toString(model.shape(handle)));
        int size = given.length - 1;
        FloatBuffer row = ByteBuffer.allocateDirect(4 * size).order(ByteOrder.nativeOrder()).asFloatBuffer();
        for (int place = 0; place < size; ++place) row.put(place, Float.parseFloat(given[place + 1]));
        Answer answer = model.run(handle, row, false);
        System.out.println(answer.exit + " " + answer.label + " " + answer.prediction + " " + answer.confidence);
        try {
            model.run(handle, row, true);
        } catch (IllegalStateException error) {
            System.out.println(error.getMessage());
        }
        model.free(handle);
    }
}
"""


@pytest.fixture(scope="module")
def library() -> Path:
    return native_build.build()


@pytest.mark.parametrize("language", [("c", "c99"), ("c++", "c++17")], ids=lambda pair: pair[1])
def test_the_header_compiles_as_old_c_and_as_cpp(language: tuple[str, str], tmp_path: Path) -> None:
    kind, standard = language
    source = tmp_path / "only.c"
    source.write_text('#include "eetoolkit.h"\nint main(void) { return ee_version() == EE_API_VERSION ? 0 : 1; }\n')
    run("g++", "-x", kind, f"-std={standard}", *STRICT, "-fsyntax-only", "-I", FOLDER / "include", source)


def test_the_module_of_ios_exposes_that_header(tmp_path: Path) -> None:
    text = (EXAMPLES / "ios" / "Eetoolkit" / "module.modulemap").read_text()
    (name,) = re.findall(r'header "([^"]+)"', text)
    assert (FOLDER / "include" / name).is_file()
    header = (FOLDER / "include" / name).read_text()
    used = set(re.findall(r"\bee_\w+", (EXAMPLES / "ios" / "Model.swift").read_text()))
    assert used <= set(re.findall(r"\bee_\w+", header))
    run("gcc", "-fsyntax-only", "-x", "c", *STRICT, FOLDER / "include" / name)


def test_the_cpp_example_answers_as_python_does(library: Path, tmp_path: Path) -> None:
    rows = np.array([(0.9, 0.2, 0, 0.25), (0.1, 0.9, 0, 0.5), (0.1, 0.2, 0.3, 0.75)], np.float32)
    rows.tofile(tmp_path / "rows.f32")
    run("cmake", "-S", EXAMPLES / "cpp", "-B", tmp_path / "build", f"-DCMAKE_CXX_FLAGS={' '.join(STRICT)}")
    run("cmake", "--build", tmp_path / "build")
    done = run(tmp_path / "build" / "answer", CHAIN, tmp_path / "rows.f32")
    with ee.Runner(CHAIN) as runner:
        answers = [runner.run(row) for row in np.split(rows, len(rows))]
    said = [f"class {a.prediction}, {a.exit}, confidence {a.confidence:.4f}" for a in answers]
    assert done.stdout.splitlines() == said
    assert len({answer.exit for answer in answers}) > 1
    assert library.is_dir()


@needs_java
def test_the_glue_for_android_runs_in_a_java_virtual_machine(library: Path, tmp_path: Path) -> None:
    javac = Path(os.path.realpath(shutil.which("javac") or ""))
    headers = javac.parents[1] / "include"
    glue = EXAMPLES / "android" / "app" / "src" / "main" / "cpp" / "eetoolkit_jni.c"
    run(
        "gcc", "-std=c11", *STRICT, "-shared", "-fPIC", glue, "-o", tmp_path / "libeetoolkit_jni.so",
        "-I", headers, "-I", headers / "linux", "-I", FOLDER / "include",
        f"-L{library}", "-leetoolkit", f"-Wl,-rpath,{library}",
    )  # fmt: skip
    (tmp_path / "Model.java").write_text(STAND_IN)
    run("javac", "-d", tmp_path, tmp_path / "Model.java")
    row = (0.9, 0.25, 0.5, 0.0)
    told = run(
        javac.with_name("java"), f"-Djava.library.path={tmp_path}", "-Xcheck:jni", "-cp", tmp_path,
        "org.eetoolkit.example.Model", CHAIN, *map(str, row),
    )  # fmt: skip
    with ee.Runner(CHAIN) as runner:
        answer = runner.run(np.array([row], np.float32))
    lines = told.stdout.splitlines()
    assert "none.ee" in lines[0]
    assert lines[1:3] == ["[1, 4]", f"{answer.exit} null {answer.prediction} {answer.confidence:.1f}"]
    assert "x: " in lines[3]
    assert told.stderr == ""


def test_kotlin_and_swift_name_only_what_the_glue_and_the_header_have() -> None:
    sources = EXAMPLES / "android" / "app" / "src" / "main"
    kotlin = (sources / "kotlin" / "org" / "eetoolkit" / "example" / "Model.kt").read_text()
    glue = (sources / "cpp" / "eetoolkit_jni.c").read_text()
    declared = set(re.findall(r"external fun (\w+)", kotlin))
    assert declared == set(re.findall(r"Java_org_eetoolkit_example_Model_(\w+)", glue))
    assert declared == set(re.findall(r"native .* (\w+)\(", STAND_IN))


@pytest.mark.parametrize("name", ["android", "ios"])
def test_what_was_not_run_on_a_device_says_so(name: str) -> None:
    assert "**Not run on a device**" in (EXAMPLES / name / "README.md").read_text()


def compile_c(source: Path, target: Path, library: Path, options: Sequence[str] = STRICT) -> None:
    """Compiles a program that uses the runner."""
    link = (f"-L{library}", "-leetoolkit", f"-Wl,-rpath,{library}")
    run("gcc", "-std=c99", *options, source, "-o", target, "-I", FOLDER / "include", *link)


def test_the_guides_program_in_c_runs(library: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```c\n(.*?)```", (ROOT / "docs" / "native.md").read_text(), re.DOTALL)
    (tmp_path / "answer.c").write_text(text)
    compile_c(tmp_path / "answer.c", tmp_path / "answer", library)
    done = run(tmp_path / "answer", CHAIN)
    with ee.Runner(CHAIN) as runner:
        answer = runner.run(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32))
    assert done.stdout == f"class {answer.prediction} at {answer.exit}, confidence {answer.confidence:.4f}\n"
