"""Cases of the contraction form: matrix products, convolutions, prologues, epilogues, attention."""

from __future__ import annotations

from program_case_kit import Case, Cases, f32

PRODUCTS = (
    (1, 1, 1), (1, 7, 5), (3, 17, 33), (16, 16, 16), (31, 33, 17), (7, 513, 15), (65, 64, 129),
    (2, 1025, 8), (1, 511, 513), (130, 9, 70), (0, 3, 4), (3, 0, 4), (3, 4, 0),
)  # fmt: skip


def products(cases: Cases) -> None:
    for m, k, n in PRODUCTS:
        for name, left, right in (
            ("nn", ("M, K", "i, k", (m, k)), ("K, N", "k, j", (k, n))),
            ("nt", ("M, K", "i, k", (m, k)), ("N, K", "j, k", (n, k))),
            ("tn", ("K, M", "k, i", (k, m)), ("K, N", "k, j", (k, n))),
            ("tt", ("K, M", "k, i", (k, m)), ("N, K", "j, k", (n, k))),
        ):
            cases.add(f"matmul_{name}_{m}x{k}x{n}", f"""
                input x f32[{left[0]}] row
                input w f32[{right[0]}] row
                output y f32[M, N] row
                stage i: M, j: N, k: K
                %0 = load x ({left[1]})
                %1 = load w ({right[1]})
                %2 = dot %0 %1 over k
                store y (i, j) %2
                """, f32(*left[2]), f32(*right[2]), loose=4)
        cases.add(f"gemm_silu_{m}x{k}x{n}", """
            input x f32[M, K] row
            input w f32[K, N] row
            input b f32[N] row
            output y f32[M, N] row
            stage i: M, j: N, k: K
            %0 = load x (i, k)
            %1 = load w (k, j)
            %2 = dot %0 %1 over k
            %3 = const f32 0.5
            %4 = mul %2 %3
            %5 = load b (j)
            %6 = add %4 %5
            %7 = sigmoid %6
            %8 = mul %6 %7
            store y (i, j) %8
            """, f32(m, k), f32(k, n), f32(n), loose=4)
    for b, m, k, n in ((2, 5, 17, 9), (3, 1, 33, 16), (4, 16, 8, 31), (0, 2, 3, 4)):
        cases.add(f"matmul_batched_{b}x{m}x{k}x{n}", """
            input x f32[B, M, K] row
            input w f32[B, K, N] row
            output y f32[B, M, N] row
            stage b: B, i: M, j: N, k: K
            %0 = load x (b, i, k)
            %1 = load w (b, k, j)
            %2 = dot %0 %1 over k
            store y (b, i, j) %2
            """, f32(b, m, k), f32(b, k, n), loose=4)
        cases.add(f"matmul_shared_{b}x{m}x{k}x{n}", """
            input x f32[B, M, K] row
            input w f32[K, N] row
            output y f32[B, M, N] row
            stage b: B, i: M, j: N, k: K
            %0 = load x (b, i, k)
            %1 = load w (k, j)
            %2 = dot %0 %1 over k
            store y (b, i, j) %2
            """, f32(b, m, k), f32(k, n), loose=4)
        cases.add(f"matmul_outer_batch_{b}x{m}x{k}x{n}", """
            input x f32[B, 1, M, K] row
            input w f32[2, K, N] row
            output y f32[B, 2, M, N] row
            stage b: B, c: 2, i: M, j: N, k: K
            %0 = load x (b, 0, i, k)
            %1 = load w (c, k, j)
            %2 = dot %0 %1 over k
            store y (b, c, i, j) %2
            """, f32(b, 1, m, k), f32(2, k, n), loose=4)
    cases.add("vector_matrix", """
        input x f32[K] row
        input w f32[K, N] row
        output y f32[N] row
        stage j: N, k: K
        %0 = load x (k)
        %1 = load w (k, j)
        %2 = dot %0 %1 over k
        store y (j) %2
        """, f32(131), f32(131, 67), loose=4)
    cases.add("vector_vector", """
        input x f32[K] row
        input w f32[K] row
        output y f32[] row
        stage k: K
        %0 = load x (k)
        %1 = load w (k)
        %2 = dot %0 %1 over k
        store y () %2
        """, f32(517), f32(517), loose=4)
    cases.add("matmul_transposed_out", """
        input x f32[M, K] row
        input w f32[K, N] row
        input r f32[N, M] row
        output y f32[N, M] row
        stage i: M, j: N, k: K
        %0 = load x (i, k)
        %1 = load w (k, j)
        %2 = dot %0 %1 over k
        %3 = load r (j, i)
        %4 = add %2 %3
        store y (j, i) %4
        """, f32(19, 33), f32(33, 21), f32(21, 19), loose=4)
    cases.add("matmul_prologue", """
        input x f32[M, K] row
        input g f32[K] row
        input w f32[N, K] row
        input c f32[M, N] row
        output y f32[M, N] row
        output z f32[M, N] row
        stage i: M, j: N, k: K
        %0 = load x (i, k)
        %1 = load g (k)
        %2 = mul %0 %1
        %3 = tanh %2
        %4 = load w (j, k)
        %5 = abs %4
        %6 = dot %3 %5 over k
        %7 = load c (i, j)
        %8 = sub %6 %7
        store y (i, j) %8
        %9 = const f32 0
        %10 = max %8 %9
        store z (i, j) %10
        """, f32(18, 37), f32(37), f32(23, 37), f32(18, 23), loose=4)
    cases.add("matmul_two_letters", """
        input x f32[M, 5, 7] row
        input w f32[7, 5, N] row
        output y f32[M, N] row
        stage i: M, j: N, a: 5, b: 7
        %0 = load x (i, a, b)
        %1 = load w (b, a, j)
        %2 = dot %0 %1 over a, b
        store y (i, j) %2
        """, f32(9, 5, 7), f32(7, 5, 17), loose=4)
    cases.add("matmul_letter_of_one_side", """
        input x f32[M, K, L] row
        input w f32[K, N] row
        output y f32[M, N] row
        stage i: M, j: N, k: K, l: L
        %0 = load x (i, k, l)
        %1 = load w (k, j)
        %2 = dot %0 %1 over k, l
        store y (i, j) %2
        """, f32(4, 9, 3), f32(9, 11), loose=4)
    cases.add("mlp_two_stages", """
        input x f32[M, K] row
        input v f32[K, 24] row
        input w f32[24, N] row
        temp t f32[M, 24] row
        output y f32[M, N] row
        stage i: M, h: 24, k: K
        %0 = load x (i, k)
        %1 = load v (k, h)
        %2 = dot %0 %1 over k
        %3 = const f32 0
        %4 = max %2 %3
        store t (i, h) %4
        stage i: M, j: N, h: 24
        %0 = load t (i, h)
        %1 = load w (h, j)
        %2 = dot %0 %1 over h
        store y (i, j) %2
        """, f32(11, 33), f32(33, 24), f32(24, 17), loose=8)
    for b, s in ((1, 1), (2, 9), (1, 33)):
        cases.add(f"attention_{b}x{s}", """
            input q f32[B, S, 48] row
            input k f32[B, S, 48] row
            input v f32[B, S, 48] row
            input m f32[B, 1, 1, S] row
            temp t f32[B, 3, S, S] row
            temp u f32[B, 3, S, S] row
            output y f32[B, S, 48] row
            stage b: B, h: 3, i: S, j: S, d: 16
            %0 = load q (b, i, 16 * h + d)
            %1 = load k (b, j, 16 * h + d)
            %2 = dot %0 %1 over d
            %3 = const f32 0.25
            %4 = mul %2 %3
            %5 = load m (b, 0, 0, j)
            %6 = add %4 %5
            store t (b, h, i, j) %6
            stage b: B, h: 3, i: S, j: S
            %0 = load t (b, h, i, j)
            %1 = reduce_max %0 over j
            %2 = sub %0 %1
            %3 = exp %2
            %4 = reduce_sum %3 over j
            %5 = div %3 %4
            store u (b, h, i, j) %5
            stage b: B, i: S, h: 3, d: 16, j: S
            %0 = load u (b, h, i, j)
            %1 = load v (b, j, 16 * h + d)
            %2 = dot %0 %1 over j
            store y (b, i, 16 * h + d) %2
            """, f32(b, s, 48), f32(b, s, 48), f32(b, s, 48), f32(b, 1, 1, s), loose=8)


def convolutions(cases: Cases) -> None:
    """2-D: (channels in, out, groups, kernel, stride, dilation, pad, height, width)."""
    rows = ("row", lambda n, c, h, w: (n, c, h, w))
    last = ("order(0, 2, 3, 1)", lambda n, c, h, w: (n, h, w, c))
    for c, o, g, k, s, d, p, h, w in (
        (3, 8, 1, 3, 1, 1, 1, 9, 11), (16, 17, 1, 3, 1, 1, 1, 14, 14),
        (8, 32, 1, 3, 2, 1, 1, 13, 16),
        (4, 6, 1, 5, 1, 1, 2, 7, 33), (5, 7, 1, 1, 1, 1, 0, 6, 9), (16, 33, 1, 1, 2, 1, 0, 8, 7),
        (4, 4, 1, 3, 1, 2, 2, 12, 12), (8, 16, 2, 3, 1, 1, 1, 8, 9), (9, 6, 3, 3, 2, 1, 0, 9, 9),
        (17, 17, 17, 3, 1, 1, 1, 9, 17), (16, 16, 16, 5, 2, 1, 2, 15, 15),
        (4, 12, 4, 3, 1, 1, 1, 5, 5),
        (1, 6, 1, 5, 1, 1, 0, 28, 28), (64, 64, 1, 3, 1, 1, 1, 8, 8), (3, 4, 1, 7, 2, 1, 3, 2, 2),
    ):  # fmt: skip
        first = f"g * {c // g} + c" if g > 1 else "c"
        second = f"g * {o // g} + o" if g > 1 else "o"
        group = f"g: {g}, " if g > 1 else ""
        depthwise = g > 1 and c == g == o
        if depthwise:
            first = second = "g"
        inner = "" if depthwise else f"c: {c // g}, "
        outer = "" if depthwise else f"o: {o // g}, "
        at = "0" if depthwise else "c"

        def along(out: str, tap: str, s: int = s, d: int = d, p: int = p) -> str:
            text = f"{s} * {out}" if s > 1 else out
            text += f" + {d} * {tap}" if d > 1 else f" + {tap}"
            return f"{text} - {p}" if p else text

        reach = 2 * p - d * (k - 1) - 1
        guard = " else 0" if p else ""
        over = "r, s" if depthwise else "c, r, s"
        for tag, (in_layout, in_shape), (out_layout, out_shape) in (
            ("nchw", rows, rows), ("nhwc", last, last),
            ("to_nhwc", rows, last), ("to_nchw", last, rows),
        ):  # fmt: skip
            height, width = (h + reach) // s + 1, (w + reach) // s + 1
            cases.add(f"conv_{tag}_{c}to{o}g{g}k{k}s{s}d{d}p{p}", f"""
                input x f32[N, {c}, H, W] {in_layout}
                input w f32[{o}, {c // g}, {k}, {k}] row
                input b f32[{o}] row
                input z f32[N, {o}, P, Q] {out_layout}
                output y f32[N, {o}, P, Q] {out_layout}
                stage n: N, {group}{outer}p: P, q: Q, {inner}r: {k}, s: {k}
                %0 = load x (n, {first}, {along("p", "r")}, {along("q", "s")}){guard}
                %1 = load w ({second}, {at}, r, s)
                %2 = dot %0 %1 over {over}
                %3 = load b ({second})
                %4 = add %2 %3
                %5 = load z (n, {second}, p, q)
                %6 = add %4 %5
                %7 = const f32 0
                %8 = max %6 %7
                store y (n, {second}, p, q) %8
                """,
                f32(*in_shape(2, c, h, w)), f32(o, c // g, k, k), f32(o),
                f32(*out_shape(2, o, height, width)), loose=4)  # fmt: skip
    for n, w in ((0, 20), (1, 5), (2, 100), (1, 1025)):
        cases.add(f"conv_1d_{n}x{w}", """
            input x f32[N, 4, W] row
            input w f32[6, 4, 5] row
            output y f32[N, 6, (W - 1) // 2 + 1] row
            stage n: N, o: 6, q: (W - 1) // 2 + 1, c: 4, s: 5
            %0 = load x (n, c, 2 * q + s - 2) else 0
            %1 = load w (o, c, s)
            %2 = dot %0 %1 over c, s
            store y (n, o, q) %2
            """, f32(n, 4, w), f32(6, 4, 5), loose=4)
    cases.add("conv_3d", """
        input x f32[N, 3, D, H, W] row
        input w f32[5, 3, 3, 3, 3] row
        output y f32[N, 5, D, H, W] row
        stage n: N, o: 5, a: D, p: H, q: W, c: 3, t: 3, r: 3, s: 3
        %0 = load x (n, c, a + t - 1, p + r - 1, q + s - 1) else 0
        %1 = load w (o, c, t, r, s)
        %2 = dot %0 %1 over c, t, r, s
        store y (n, o, a, p, q) %2
        """, f32(2, 3, 4, 5, 6), f32(5, 3, 3, 3, 3), loose=4)
    cases.add("conv_uneven", """
        input x f32[1, 3, H, W] row
        input w f32[4, 3, 2, 5] row
        output y f32[1, 4, H, W - 1] row
        stage o: 4, p: H, q: W - 1, c: 3, r: 2, s: 5
        %0 = load x (0, c, p + r, q + s - 1) else 0
        %1 = load w (o, c, r, s)
        %2 = dot %0 %1 over c, r, s
        %3 = sigmoid %2
        %4 = mul %2 %3
        store y (0, o, p, q) %4
        """, f32(1, 3, 10, 12), f32(4, 3, 2, 5), loose=4)
    cases.add("conv_prologue", """
        input x f32[N, 6, H, W] row
        input g f32[6] row
        input w f32[8, 6, 3, 3] row
        output y f32[N, 8, H, W] row
        stage n: N, o: 8, p: H, q: W, c: 6, r: 3, s: 3
        %0 = load x (n, c, p + r - 1, q + s - 1) else 0
        %1 = const f32 0
        %2 = max %0 %1
        %3 = load g (c)
        %4 = mul %2 %3
        %5 = load w (o, c, r, s)
        %6 = dot %4 %5 over c, r, s
        store y (n, o, p, q) %6
        """, f32(2, 6, 7, 9), f32(6), f32(8, 6, 3, 3), loose=4)
    cases.add("conv_padded_by_select", """
        input x f32[1, 1, 1000] row
        input w f32[256] row
        output y f32[1, 500] row
        stage p: 500, r: 256
        %0 = load x (0, 0, 2 * p + r - 127) else 0
        %1 = const f32 2
        %2 = select (0 <= 2 * p + r - 127 and 2 * p + r - 127 < 1000) %0 %1
        %3 = load w (r)
        %4 = dot %2 %3 over r
        store y (0, p) %4
        """, f32(1, 1, 1000), f32(256), loose=4)
    cases.add("conv_then_pool", """
        input x f32[N, 2, H, W] row
        input w f32[4, 2, 3, 3] row
        temp t f32[N, 4, H, W] order(0, 2, 3, 1)
        output y f32[N, 4, H // 2, W // 2] row
        stage n: N, o: 4, p: H, q: W, c: 2, r: 3, s: 3
        %0 = load x (n, c, p + r - 1, q + s - 1) else 0
        %1 = load w (o, c, r, s)
        %2 = dot %0 %1 over c, r, s
        %3 = const f32 0
        %4 = max %2 %3
        store t (n, o, p, q) %4
        stage n: N, o: 4, p: H // 2, q: W // 2, r: 2, s: 2
        %0 = load t (n, o, 2 * p + r, 2 * q + s)
        %1 = reduce_max %0 over r, s
        store y (n, o, p, q) %1
        """, f32(2, 2, 9, 14), f32(4, 2, 3, 3), loose=4)


def contractions() -> list[Case]:
    """Return the cases with a dot."""
    cases = Cases()
    products(cases)
    convolutions(cases)
    return cases
