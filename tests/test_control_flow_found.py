"""Small programs, each of which a pass once got wrong; random programs found them, and they were cut down by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
from program_property import VARIANTS, compiled, first_difference, unoptimised_segments
from random_programs import Program

PROGRAMS = {
    "a loop with a scan output": """(float[batch, 6] x) => (float[batch, 6] y) {
        three = Constant<value = int64 {3}>()
        axis = Constant<value = int64[1] {0}>()
        last, all = Loop(three, "", x) <body = body (int64 i, bool go, float[batch, 6] s)
            => (bool more, float[batch, 6] t, float[batch, 6] kept) {
            more = Identity(go)
            t = Tanh(s)
            kept = Neg(t)
        }>
        sum = ReduceSum<keepdims = 0>(all, axis)
        y = Add(last, sum)
    }""",
    "a loop without a trip count whose body looks at the iteration number": """
        (float[batch, 6] x) => (float[batch, 6] y) {
        yes = Constant<value = bool {1}>()
        y = Loop("", yes, x) <body = body (int64 i, bool go, float[batch, 6] s)
            => (bool more, float[batch, 6] t) {
            two = Constant<value = int64 {2}>()
            more = Less(i, two)
            number = Cast<to = 1>(i)
            t = Add(s, number)
        }>
    }""",
    "a loop without a trip count that hands the iteration number on": """
        (float[batch, 6] x) => (float[batch, 6] y) {
        yes = Constant<value = bool {1}>()
        zero = Constant<value = int64 {0}>()
        s, n = Loop("", yes, x, zero) <body = body (int64 i, bool go, float[batch, 6] s, int64 before)
            => (bool more, float[batch, 6] t, int64 after) {
            two = Constant<value = int64 {2}>()
            more = Less(before, two)
            t = Tanh(s)
            after = Identity(i)
        }>
        number = Cast<to = 1>(n)
        y = Add(s, number)
    }""",
    "a condition that is a state of the round before": """(float[batch, 6] x) => (float[batch, 6] y) {
        yes = Constant<value = bool {1}>()
        zero = Constant<value = int64 {0}>()
        y, f, n = Loop("", yes, x, yes, zero) <body = body
            (int64 i, bool go, float[batch, 6] s, bool flag, int64 count)
            => (bool flag, float[batch, 6] t, bool small, int64 next) {
            one = Constant<value = int64 {1}>()
            three = Constant<value = int64 {3}>()
            t = Sin(s)
            next = Add(count, one)
            small = Less(next, three)
        }>
    }""",
    "a branch whose results are one tensor, of a shape that is known of one only": """
        (float[batch, 6] x) => (float[batch, 6] y) {
        total = ReduceSum<keepdims = 0>(x)
        limit = Constant<value = float {0.137}>()
        on = Greater(total, limit)
        off = Less(total, limit)
        a, b = If(on) <then_branch = then () => (float[batch, 6] u, float[batch, 6] v) {
            u = Identity(x)
            v = Identity(u)
        }, else_branch = otherwise () => (float[?, ?] u2, float[batch, 6] v2) {
            u2, v2 = If(off) <then_branch = inner () => (float[?, ?] u3, float[?, ?] v3) {
                shape = Constant<value = int64[2] {-1, 1}>()
                u3 = Reshape(x, shape)
                v3 = Identity(u3)
            }, else_branch = last () => (float[batch, 6] u4, float[batch, 6] v4) {
                u4 = Abs(x)
                v4 = Identity(u4)
            }>
        }>
        one = Constant<value = int64[1] {1}>()
        sum = Add(a, b)
        y_sum = ReduceMax(sum)
        y = Add(x, y_sum)
    }""",
    "a loop whose first block works only for a state that nobody looks at": """
        (float[batch, 6] x) => (float[batch, 6] y) {
        total = ReduceSum<keepdims = 0>(x)
        limit = Constant<value = float {0.137}>()
        on = Greater(total, limit)
        three = Constant<value = int64 {3}>()
        y, idle = Loop(three, "", x, x) <body = body (int64 i, bool go, float[batch, 6] s, float[batch, 6] d)
            => (bool more, float[batch, 6] t, float[batch, 6] e) {
            more = Identity(go)
            size = Abs(x)
            t, e = If(on) <then_branch = then () => (float[batch, 6] t1, float[batch, 6] e1) {
                t1 = Tanh(s)
                e1 = Identity(size)
            }, else_branch = otherwise () => (float[batch, 6] t2, float[batch, 6] e2) {
                t2 = Sin(s)
                e2 = Identity(size)
            }>
        }>
    }""",
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", PROGRAMS)
def test_what_once_went_wrong_equals_the_whole_graph(what: str, variant: str, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 17]>\nprogram {PROGRAMS[what]}')
    onnx.checker.check_model(model)
    onnx.save(model, path)
    program = Program(path, ("x",), ("y",), False, Counter(), (), 0)
    with unoptimised_segments():
        bundle = compiled(program, tmp_path / "b", variant)
        assert first_difference(program, bundle, 0, optimised=False) is None
