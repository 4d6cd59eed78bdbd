"""Programs that move elements: index maps, guards, pieces, lookups."""

from __future__ import annotations

from program_case_kit import SIZES, Cases, f32, given, ints


def movement(cases: Cases) -> None:
    for n in (0, *SIZES):
        cases.add(f"chain_{n}", """
            input x f32[N] row
            output y f32[N] row
            stage i: N
            %0 = load x (i)
            %1 = sigmoid %0
            %2 = mul %0 %1
            %3 = const f32 0.5
            %4 = add %2 %3
            %5 = const f32 0
            %6 = max %4 %5
            store y (i) %6
            """, f32(n))
    # The i16 constant is folded into an i32 one, and has no place among those that are read.
    cases.add("constant_folded_away", """
        input x f32[N] row
        output y i16[N] row
        output z f32[N] row
        stage i: N
        %0 = load x (i)
        %1 = const f32 0.5
        %2 = const i16 5
        %3 = div %0 %1
        %4 = cast i16 %3
        store y (i) %4
        %5 = cast i32 %4
        %6 = cast i32 %2
        %7 = sub %5 %6
        %8 = cast f32 %7
        %9 = mul %8 %1
        store z (i) %9
        """, f32(40))
    for m, n in ((1, 1), (3, 17), (17, 3), (5, 513), (33, 31), (0, 5), (5, 0), (2, 1025)):
        cases.add(f"broadcast_{m}x{n}", """
            input x f32[M, N] row
            input r f32[N] row
            input c f32[M, 1] row
            input s f32[] row
            output y f32[M, N] row
            stage i: M, j: N
            %0 = load x (i, j)
            %1 = load r (j)
            %2 = load c (i, 0)
            %3 = load s ()
            %4 = mul %0 %1
            %5 = add %4 %2
            %6 = sub %5 %3
            store y (i, j) %6
            """, f32(m, n), f32(n), f32(m, 1), f32())
        cases.add(f"transpose_{m}x{n}", """
            input x f32[M, N] row
            input y f32[N, M] row
            output z f32[N, M] row
            stage i: N, j: M
            %0 = load x (j, i)
            %1 = load y (i, j)
            %2 = add %0 %1
            store z (i, j) %2
            """, f32(m, n), f32(n, m))
    for n, c, h, w in ((1, 3, 5, 7), (2, 16, 8, 8), (1, 17, 4, 33), (2, 0, 3, 3)):
        cases.add(f"channels_last_{n}x{c}x{h}x{w}", """
            input x f32[N, C, H, W] row
            input b f32[C] row
            input r f32[N, C, H, W] order(0, 2, 3, 1)
            output y f32[N, C, H, W] order(0, 2, 3, 1)
            stage n: N, h: H, w: W, c: C
            %0 = load x (n, c, h, w)
            %1 = load b (c)
            %2 = load r (n, c, h, w)
            %3 = mul %0 %1
            %4 = add %3 %2
            store y (n, c, h, w) %4
            """, f32(n, c, h, w), f32(c), f32(n, h, w, c))
    cases.add("heads_swapped", """
        input x f32[B, S, 48] row
        output y f32[B, 3, S, 16] row
        stage b: B, h: 3, s: S, d: 16
        %0 = load x (b, s, 16 * h + d)
        %1 = tanh %0
        store y (b, h, s, d) %1
        """, f32(2, 9, 48))
    cases.add("reshape_div_mod", """
        input x f32[6, 35] row
        output y f32[14, 15] row
        stage i: 14, j: 15
        %0 = load x ((15 * i + j) // 35, (15 * i + j) % 35)
        %1 = abs %0
        store y (i, j) %1
        """, f32(6, 35))
    cases.add("slice_reverse", """
        input x f32[N, 20] row
        output y f32[N, 6] row
        stage i: N, j: 6
        %0 = load x (i, 18 - 3 * j)
        %1 = load x (i, 2 * j + 1)
        %2 = sub %0 %1
        store y (i, j) %2
        """, f32(5, 20))
    for h, w in ((1, 1), (5, 7), (16, 33)):
        cases.add(f"pad_{h}x{w}", """
            input x f32[H, W] row
            dim P = H + 3
            dim Q = W + 4
            output y f32[P, Q] row
            stage p: P, q: Q
            %0 = load x (p - 1, q - 3) else -1.5
            %1 = exp %0
            store y (p, q) %1
            """, f32(h, w))
        cases.add(f"pad_reflect_{h}x{w}", """
            input x f32[H, W] row
            output y f32[H, W + 2] row
            stage p: H, q: W + 2
            %0 = load x (p, max(0, min(q - 1, W - 1)))
            %1 = neg %0
            store y (p, q) %1
            """, f32(h, w))
    for m in (1, 5, 16, 33):
        cases.add(f"slice_concat_{m}", """
            input x f32[N, 10] row
            input z f32[N, 3] row
            output y f32[N, 7] row
            stage i: N, j: 7
            %0 = load x (i, j + 2) else 0
            %1 = neg %0
            %2 = load z (i, j - 4) else 0
            %3 = select (j < 4) %1 %2
            %4 = exp %3
            store y (i, j) %4
            """, f32(m, 10), f32(m, 3))
    cases.add("concat_by_stores", """
        input x f32[N, A] row
        input z f32[N, B] row
        output y f32[N, A + B] row
        stage i: N, j: A
        %0 = load x (i, j)
        %1 = exp %0
        store y (i, j) %1
        stage i: N, j: B
        %0 = load z (i, j)
        %1 = neg %0
        store y (i, A + j) %1
        """, f32(5, 17), f32(5, 9))
    cases.add("select_conditions", """
        input x f32[N, N] row
        output y f32[N, N] row
        stage i: N, j: N
        %0 = load x (i, j)
        %1 = const f32 -inf
        %2 = select (j <= i and i % 2 == 0 and i < N - 1) %0 %1
        store y (i, j) %2
        """, f32(19, 19))
    for s in (1, 7, 33):
        cases.add(f"gather_{s}", """
            input x f32[V, 24] row
            input k i64[S] row
            output y f32[S, 24] row
            stage i: S, j: 24
            %0 = load k (i)
            %1 = index V
            %2 = add %0 %1
            %3 = const i64 0
            %4 = lt %0 %3
            %5 = where %4 %2 %0
            %6 = load x (%5, j)
            %7 = mul %6 %6
            store y (i, j) %7
            """, f32(11, 24), ints("int64", -11, 11, s))
    cases.add("gather_guarded_i32", """
        input x f32[3, V] row
        input k i32[S] row
        output y f32[3, S] row
        stage j: 3, i: S
        %0 = load k (i)
        %1 = load x (j, %0) else nan
        store y (j, i) %1
        """, f32(3, 6), ints("int32", -4, 10, 17))
    cases.add("expand_to_data", """
        input x f32[K] row
        input s i64[2] row as (A, B)
        output y f32[A, B] row
        stage i: A, j: B
        %0 = load x (j)
        %1 = tanh %0
        store y (i, j) %1
        """, f32(17), given([3, 17], "int64"))
    cases.add("expand_to_data_partly_known", """
        input x f32[K] row
        input s i32[3] row as (A, K, A)
        output y f32[A, K] row
        stage i: A, j: K
        %0 = load x (j)
        %1 = exp %0
        store y (i, j) %1
        """, f32(17), given([3, 17, 3], "int32"))
    cases.add("scalar", """
        input x f32[] row
        output y f32[] row
        stage
        %0 = load x ()
        %1 = exp %0
        store y () %1
        """, f32())
    cases.add("several_outputs", """
        input x f32[M, N] row
        output y f32[M, N] row
        output z f32[N, M] row
        output c bool[M, N] row
        stage i: M, j: N
        %0 = load x (i, j)
        %1 = exp %0
        store y (i, j) %1
        %2 = sub %1 %0
        store z (j, i) %2
        %3 = lt %2 %1
        store c (i, j) %3
        """, f32(9, 35))
    cases.add("channel_shuffle", """
        input x f32[N, 8, H, W] row
        output y f32[N, 8, H, W] row
        stage n: N, c: 4, g: 2, h: H, w: W
        %0 = load x (n, 4 * g + c, h, w)
        %1 = const f32 0
        %2 = max %0 %1
        store y (n, 2 * c + g, h, w) %2
        """, f32(2, 8, 5, 7))
    cases.add("depth_to_space", """
        input x f32[N, 12, H, W] row
        output y f32[N, 3, 2 * H, 2 * W] row
        stage n: N, c: 3, h: H, a: 2, w: W, b: 2
        %0 = load x (n, 6 * a + 3 * b + c, h, w)
        %1 = abs %0
        store y (n, c, 2 * h + a, 2 * w + b) %1
        """, f32(2, 12, 4, 9))
