"""Cases of the rows form: reductions over any letters, norms, softmax, pooling."""

from __future__ import annotations

from program_case_kit import Case, Cases, f32, f64, ints, special

SHAPES = ((1, 1), (3, 7), (5, 16), (17, 33), (2, 511), (4, 513), (3, 1025), (0, 5))


def reductions(cases: Cases) -> None:
    for op in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"):
        for m, n in (*SHAPES, (4, 0)):
            low, high = (0.99, 1.01) if op == "reduce_prod" else (-2, 2)
            makers = (f32(m, n, low=low, high=high),)
            for name, load, keep, over in (
                ("last", "(i, j)", "i", "j"),
                ("first", "(i, j)", "j", "i"),
            ):
                size = {"i": "M", "j": "N"}[keep]
                cases.add(f"{op}_{name}_{m}x{n}", f"""
                    input x f32[M, N] row
                    output y f32[{size}] row
                    stage i: M, j: N
                    %0 = load x {load}
                    %1 = {op} %0 over {over}
                    store y ({keep}) %1
                    """, *makers)
        cases.add(f"{op}_middle", f"""
            input x f32[A, M, N] row
            output y f32[A, 1, N] row
            stage a: A, i: M, j: N
            %0 = load x (a, i, j)
            %1 = {op} %0 over i
            store y (a, 0, j) %1
            """, f32(3, 5, 37, low=0.9, high=1.1))
        cases.add(f"{op}_all", f"""
            input x f32[A, M, N] row
            output y f32[] row
            stage a: A, i: M, j: N
            %0 = load x (a, i, j)
            %1 = {op} %0 over a, i, j
            store y () %1
            """, f32(3, 5, 37, low=0.99, high=1.01))
        cases.add(f"{op}_ends", f"""
            input x f32[A, M, N] order(0, 2, 1)
            output y f32[M] row
            stage i: M, a: A, j: N
            %0 = load x (a, i, j)
            %1 = {op} %0 over a, j
            store y (i) %1
            """, f32(3, 37, 5, low=0.9, high=1.1))
        for dtype, maker in (
            ("i32", ints("int32", -50, 50, 5, 35)),
            ("i64", ints("int64", -(2**40), 2**40, 5, 35)),
            ("f64", f64(5, 35)),
        ):
            cases.add(f"{op}_{dtype}", f"""
                input x {dtype}[M, N] row
                output y {dtype}[M] row
                output z {dtype}[N] row
                stage i: M, j: N
                %0 = load x (i, j)
                %1 = {op} %0 over j
                store y (i) %1
                stage i: M, j: N
                %0 = load x (i, j)
                %1 = {op} %0 over i
                store z (j) %1
                """, maker)
    for op in ("reduce_max", "reduce_min", "reduce_sum"):
        cases.add(f"{op}_special", f"""
            input x f32[N] row
            output y f32[3] row
            stage i: 3, j: N // 3
            %0 = load x (3 * j + i)
            %1 = {op} %0 over j
            store y (i) %1
            """, special())
    cases.add("reduce_of_computed", """
        input x f32[M, N] row
        input z f32[N] row
        output y f32[M] row
        stage i: M, j: N
        %0 = load x (i, j)
        %1 = load z (j)
        %2 = sub %0 %1
        %3 = abs %2
        %4 = reduce_max %3 over j
        %5 = sqrt %4
        store y (i) %5
        """, f32(9, 131), f32(131))
    cases.add("sum_of_constant", """
        input x f32[M, N] row
        output y f32[M] row
        stage i: M, j: N
        %0 = index j
        %1 = reduce_sum %0 over j
        %2 = cast f32 %1
        %3 = load x (i, 0)
        %4 = add %3 %2
        store y (i) %4
        """, f32(4, 100))


def norms(cases: Cases) -> None:
    for m, n in SHAPES:
        cases.add(f"softmax_last_{m}x{n}", """
            input x f32[M, N] row
            output y f32[M, N] row
            stage i: M, j: N
            %0 = load x (i, j)
            %1 = reduce_max %0 over j
            %2 = sub %0 %1
            %3 = exp %2
            %4 = reduce_sum %3 over j
            %5 = div %3 %4
            store y (i, j) %5
            """, f32(m, n, low=-9, high=9))
        cases.add(f"softmax_first_{m}x{n}", """
            input x f32[M, N] row
            output y f32[M, N] row
            stage j: N, i: M
            %0 = load x (i, j)
            %1 = reduce_max %0 over i
            %2 = sub %0 %1
            %3 = exp %2
            %4 = reduce_sum %3 over i
            %5 = div %3 %4
            store y (i, j) %5
            """, f32(m, n, low=-9, high=9))
        cases.add(f"log_softmax_{m}x{n}", """
            input x f32[M, N] row
            output y f32[M, N] row
            stage i: M, j: N
            %0 = load x (i, j)
            %1 = reduce_max %0 over j
            %2 = sub %0 %1
            %3 = exp %2
            %4 = reduce_sum %3 over j
            %5 = log %4
            %6 = sub %2 %5
            store y (i, j) %6
            """, f32(m, n))
        cases.add(f"layer_norm_{m}x{n}", """
            input x f32[M, N] row
            input g f32[N] row
            input b f32[N] row
            output y f32[M, N] row
            stage i: M, j: N
            %0 = load x (i, j)
            %1 = reduce_sum %0 over j
            %2 = index N
            %3 = cast f32 %2
            %4 = div %1 %3
            %5 = sub %0 %4
            %6 = mul %5 %5
            %7 = reduce_sum %6 over j
            %8 = div %7 %3
            %9 = const f32 1e-05
            %10 = add %8 %9
            %11 = sqrt %10
            %12 = div %5 %11
            %13 = load g (j)
            %14 = mul %12 %13
            %15 = load b (j)
            %16 = add %14 %15
            store y (i, j) %16
            """, f32(m, n), f32(n), f32(n))
    for n, c, h, w in ((1, 3, 4, 5), (2, 17, 7, 7), (2, 4, 1, 1)):
        cases.add(f"instance_norm_{n}x{c}x{h}x{w}", """
            input x f32[N, C, H, W] row
            input g f32[C] row
            output y f32[N, C, H, W] row
            stage n: N, c: C, h: H, w: W
            %0 = load x (n, c, h, w)
            %1 = reduce_sum %0 over h, w
            %2 = index H * W
            %3 = cast f32 %2
            %4 = div %1 %3
            %5 = sub %0 %4
            %6 = mul %5 %5
            %7 = reduce_sum %6 over h, w
            %8 = div %7 %3
            %9 = const f32 0.001
            %10 = add %8 %9
            %11 = sqrt %10
            %12 = div %5 %11
            %13 = load g (c)
            %14 = mul %12 %13
            store y (n, c, h, w) %14
            """, f32(n, c, h, w), f32(c))
        cases.add(f"global_average_{n}x{c}x{h}x{w}", """
            input x f32[N, C, H, W] order(0, 2, 3, 1)
            output y f32[N, C, 1, 1] row
            stage n: N, c: C, h: H, w: W
            %0 = load x (n, c, h, w)
            %1 = const f32 0
            %2 = max %0 %1
            %3 = reduce_sum %2 over h, w
            %4 = index H * W
            %5 = cast f32 %4
            %6 = div %3 %5
            store y (n, c, 0, 0) %6
            """, f32(n, h, w, c))
    cases.add("group_norm", """
        input x f32[N, 12, H, W] row
        input g f32[12] row
        output y f32[N, 12, H, W] row
        stage n: N, k: 3, c: 4, h: H, w: W
        %0 = load x (n, 4 * k + c, h, w)
        %1 = reduce_sum %0 over c, h, w
        %2 = index 4 * H * W
        %3 = cast f32 %2
        %4 = div %1 %3
        %5 = sub %0 %4
        %6 = mul %5 %5
        %7 = reduce_sum %6 over c, h, w
        %8 = div %7 %3
        %9 = const f32 1e-05
        %10 = add %8 %9
        %11 = sqrt %10
        %12 = div %5 %11
        %13 = load g (4 * k + c)
        %14 = mul %12 %13
        store y (n, 4 * k + c, h, w) %14
        """, f32(2, 12, 5, 3), f32(12))
    cases.add("two_outputs", """
        input x f32[M, K] row
        input z f32[M, K] row
        output y f32[M, K] row
        output s f32[M, 1] row
        stage i: M, j: K
        %0 = load x (i, j)
        %1 = load z (i, j)
        %2 = add %0 %1
        store y (i, j) %2
        %3 = mul %2 %2
        %4 = reduce_sum %3 over j
        store s (i, 0) %4
        """, f32(7, 67), f32(7, 67))
    cases.add("norm_in_two_stages", """
        input x f32[M, K] row
        temp t f32[M] row
        output y f32[M, K] row
        stage i: M, j: K
        %0 = load x (i, j)
        %1 = mul %0 %0
        %2 = reduce_sum %1 over j
        store t (i) %2
        stage i: M, j: K
        %0 = load x (i, j)
        %1 = load t (i)
        %2 = const f32 1e-06
        %3 = add %1 %2
        %4 = sqrt %3
        %5 = div %0 %4
        store y (i, j) %5
        """, f32(6, 45))


def pooling(cases: Cases) -> None:
    for layout, shape in (("row", (2, 5, 9, 17)), ("order(0, 2, 3, 1)", (2, 9, 17, 5))):
        tag = layout.split("(")[0]
        for k, s, p in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)):
            cases.add(f"max_pool_{tag}_{k}{s}{p}", f"""
                input x f32[N, C, H, W] {layout}
                dim P = (H + {2 * p - k}) // {s} + 1
                dim Q = (W + {2 * p - k}) // {s} + 1
                output y f32[N, C, P, Q] {layout}
                stage n: N, c: C, p: P, q: Q, r: {k}, s: {k}
                %0 = load x (n, c, {s} * p + r - {p}, {s} * q + s - {p}) else -inf
                %1 = reduce_max %0 over r, s
                store y (n, c, p, q) %1
                """.replace("1 * ", "").replace(" - 0", ""), f32(*shape))
            cases.add(f"average_pool_{tag}_{k}{s}{p}", f"""
                input x f32[N, C, H, W] {layout}
                dim P = (H + {2 * p - k}) // {s} + 1
                dim Q = (W + {2 * p - k}) // {s} + 1
                output y f32[N, C, P, Q] {layout}
                stage n: N, c: C, p: P, q: Q, r: {k}, s: {k}
                %0 = load x (n, c, {s} * p + r - {p}, {s} * q + s - {p}) else 0
                %1 = reduce_sum %0 over r, s
                %2 = index min({s} * p + {k - p}, H) - max({s} * p - {p}, 0)
                %3 = index min({s} * q + {k - p}, W) - max({s} * q - {p}, 0)
                %4 = mul %2 %3
                %5 = cast f32 %4
                %6 = div %1 %5
                store y (n, c, p, q) %6
                """.replace("1 * ", "").replace(" - 0", ""), f32(*shape))
    cases.add("average_pool_1d", """
        input x f32[N, C, W] row
        output y f32[N, C, W - 2] row
        stage n: N, c: C, q: W - 2, s: 3
        %0 = load x (n, c, q + s)
        %1 = reduce_sum %0 over s
        %2 = const f32 3
        %3 = div %1 %2
        store y (n, c, q) %3
        """, f32(2, 3, 35))


def rows() -> list[Case]:
    """Return the cases with reductions and no dot."""
    cases = Cases()
    reductions(cases)
    norms(cases)
    pooling(cases)
    return cases
