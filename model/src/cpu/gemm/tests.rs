use proptest::prelude::*;

use super::packed_matrix::shares;
use super::*;

proptest! {
    #[test]
    fn shares_cover_every_panel_once(panels in 1usize..2000, threads in 1usize..40, largest in 1usize..300) {
        let shares = shares(panels, threads, largest);
        prop_assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..panels).collect::<Vec<_>>());
        prop_assert!(shares.iter().all(|share| !share.is_empty() && share.len() <= largest));
    }
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
        })
        .collect()
}

fn naive(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut c = vec![0f64; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum();
        }
    }
    c
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn agrees_with_the_definition(m in 1usize..130, k in 0usize..300, n in 1usize..130, ta: bool, tb: bool, add: bool) {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let want = naive(&a, &b, m, k, n);
        let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
        let bt: Vec<f32> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
        let a_ref = if ta { MatrixRef::row_major(&at, k, m, m).transposed() } else { MatrixRef::row_major(&a, m, k, k) };
        let b_ref = if tb { MatrixRef::row_major(&bt, n, k, k).transposed() } else { MatrixRef::row_major(&b, k, n, n) };
        let stride = n + 3;
        let mut c = vec![7f32; m * stride];
        gemm(a_ref, b_ref, &mut c, stride, if add { Store::Accumulate } else { Store::Overwrite });
        for i in 0..m {
            for j in 0..n {
                let expect = want[i * n + j] + if add { 7.0 } else { 0.0 };
                prop_assert!((f64::from(c[i * stride + j]) - expect).abs() < 1e-4);
            }
            prop_assert!(c[i * stride + n..(i + 1) * stride].iter().all(|&x| x == 7.0), "wrote past a row");
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_batch(m in 1usize..140, k in 1usize..600, n in 1usize..200, pick in 0usize..140) {
        let (a, w) = (numbers(m * k, 3), numbers(n * k, 4));
        let pick = pick % m;
        let mut all = vec![0f32; m * n];
        gemm(MatrixRef::row_major(&a, m, k, k), MatrixRef::row_major(&w, n, k, k).transposed(), &mut all, n, Store::Overwrite);
        let packed = PackedMatrix::of_weights(&[&w[..(n / 2) * k], &w[(n / 2) * k..]], k);
        let mut alone = vec![0f32; n];
        packed.product(MatrixRef::row_major(&a[pick * k..(pick + 1) * k], 1, k, k), &mut alone, n, Store::Overwrite);
        let same = alone.iter().zip(&all[pick * n..(pick + 1) * n]).all(|(x, y)| x.to_bits() == y.to_bits());
        prop_assert!(same);
    }
}

#[test]
fn a_depth_of_several_pieces_agrees_with_the_definition() {
    let (m, k, n) = (5, 2 * K_BLOCK + 77, 9);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let want = naive(&a, &b, m, k, n);
    for (store, before) in [(Store::Overwrite, 0.0), (Store::Accumulate, 7.0)] {
        let mut c = vec![7f32; m * n];
        gemm(MatrixRef::row_major(&a, m, k, k), MatrixRef::row_major(&b, k, n, n), &mut c, n, store);
        let far = c.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want - before).abs());
        assert!(far.fold(0.0, f64::max) < 1e-3);
    }
}

#[test]
fn f64_agrees_with_the_definition() {
    let (m, k, n) = (37, 301, 19);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let want = naive(&a, &b, m, k, n);
    let (a, b): (Vec<f64>, Vec<f64>) =
        (a.iter().map(|&x| x.into()).collect(), b.iter().map(|&x| x.into()).collect());
    let mut c = vec![0f64; m * n];
    gemm(MatrixRef::row_major(&a, m, k, k), MatrixRef::row_major(&b, k, n, n), &mut c, n, Store::Overwrite);
    assert!(c.iter().zip(&want).all(|(x, y)| (x - y).abs() < 1e-12));
}
