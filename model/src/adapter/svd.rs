//! The largest singular values of a matrix with their vectors: what PiSSA begins with.
//!
//! A matrix with a short side of at most [`EXACT`] is decomposed whole, by one-sided Jacobi rotations (Hestenes 1958). Of a
//! larger one the leading space is found first, by orthogonal iteration from a random beginning (Halko, Martinsson and Tropp
//! 2011, section 4.5), until the values stand still; the rest is the same decomposition within that space.

use selfplay_records::counter::key;

use crate::cpu::gemm::{MatrixRef, Store, gemm};
use crate::weights::normal;

/// A short side up to which the decomposition is of the whole matrix.
const EXACT: usize = 128;
/// Vectors beside those that are wanted, which make the iteration fast.
const BESIDE: usize = 16;
const MOST_ITERATIONS: usize = 40;
/// The iteration ends when the sum of the values has changed by less than this share.
const STANDS_STILL: f64 = 1e-7;
const MOST_SWEEPS: usize = 40;
/// Two rows whose angle's cosine is below this are orthogonal.
const ORTHOGONAL: f64 = 1e-14;

/// The largest singular values, in their order.
pub(super) struct Leading {
    /// Left vectors, one a row: [count, rows].
    pub left: Vec<f64>,
    pub values: Vec<f64>,
    /// Right vectors, one a row: [count, columns].
    pub right: Vec<f64>,
}

/// A row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct SvdMatrix<'a> {
    pub numbers: &'a [f64],
    pub rows: usize,
    pub columns: usize,
}

impl<'a> SvdMatrix<'a> {
    fn view(self) -> MatrixRef<'a, f64> {
        MatrixRef::row_major(self.numbers, self.rows, self.columns, self.columns)
    }
}

/// The `count` largest singular values of `matrix`, at most its short side.
pub(super) fn leading(matrix: SvdMatrix<'_>, count: usize) -> Leading {
    let SvdMatrix { rows, columns, .. } = matrix;
    let count = count.min(rows).min(columns);
    let space = count + BESIDE;
    if rows.min(columns) <= EXACT.max(space) {
        return decompose(matrix, count);
    }
    let basis = leading_space(matrix, space);
    let mut inside = vec![0.0; space * columns];
    gemm(
        MatrixRef::row_major(&basis, space, rows, rows),
        matrix.view(),
        &mut inside,
        columns,
        Store::Overwrite,
    );
    let found = decompose(SvdMatrix { numbers: &inside, rows: space, columns }, count);
    let mut left = vec![0.0; count * rows];
    let inner = MatrixRef::row_major(&found.left, count, space, space);
    gemm(inner, MatrixRef::row_major(&basis, space, rows, rows), &mut left, rows, Store::Overwrite);
    Leading { left, ..found }
}

/// An orthonormal basis, one vector a row, of the space of the leading left vectors.
fn leading_space(matrix: SvdMatrix<'_>, size: usize) -> Vec<f64> {
    let SvdMatrix { rows, columns, .. } = matrix;
    let stream = key(0, [rows as u64, columns as u64]);
    let mut right: Vec<f64> =
        (0..size * columns).map(|place| f64::from(normal(stream, place as u64))).collect();
    let mut left = vec![0.0; size * rows];
    let mut before = 0.0;
    for _ in 0..MOST_ITERATIONS {
        let guess = MatrixRef::row_major(&right, size, columns, columns);
        gemm(guess, matrix.view().transposed(), &mut left, rows, Store::Overwrite);
        orthonormalise(&mut left, rows);
        let guess = MatrixRef::row_major(&left, size, rows, rows);
        gemm(guess, matrix.view(), &mut right, columns, Store::Overwrite);
        let now: f64 = orthonormalise(&mut right, columns).iter().sum();
        if (now - before).abs() <= STANDS_STILL * now {
            break;
        }
        before = now;
    }
    left
}

/// Gram and Schmidt's procedure over rows of `width`, each twice; the lengths that were left of them.
fn orthonormalise(rows: &mut [f64], width: usize) -> Vec<f64> {
    let mut lengths = Vec::new();
    for place in 0..rows.len() / width {
        let (before, rest) = rows.split_at_mut(place * width);
        let row = &mut rest[..width];
        for _ in 0..2 {
            for other in before.chunks_exact(width) {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
        }
        let length = dot(row, row).sqrt();
        row.iter_mut().for_each(|x| *x /= length.max(f64::MIN_POSITIVE));
        lengths.push(length);
    }
    lengths
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The whole decomposition, of which `count` are kept.
fn decompose(matrix: SvdMatrix<'_>, count: usize) -> Leading {
    let SvdMatrix { numbers, rows, columns } = matrix;
    if rows > columns {
        let mut turned = vec![0.0; numbers.len()];
        for (row, numbers) in numbers.chunks_exact(columns).enumerate() {
            numbers.iter().enumerate().for_each(|(column, &x)| turned[column * rows + row] = x);
        }
        let Leading { left, values, right } =
            decompose(SvdMatrix { numbers: &turned, rows: columns, columns: rows }, count);
        return Leading { left: right, values, right: left };
    }
    // Rotations of pairs of rows until all are orthogonal: then they are the right vectors times the values, and what was
    // done to them is the left vectors.
    let mut turned = numbers.to_vec();
    let mut done = vec![0.0; rows * rows];
    (0..rows).for_each(|row| done[row * rows + row] = 1.0);
    for _ in 0..MOST_SWEEPS {
        let mut is_orthogonal = true;
        for first in 0..rows {
            for second in first + 1..rows {
                let [x, y] = two_rows(&mut turned, columns, first, second);
                let (a, b, along) = (dot(x, x), dot(y, y), dot(x, y));
                if along.abs() <= ORTHOGONAL * (a * b).sqrt() {
                    continue;
                }
                is_orthogonal = false;
                let ratio = (b - a) / (2.0 * along);
                let tangent = ratio.signum() / (ratio.abs() + (1.0 + ratio * ratio).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                rotate(x, y, cosine, cosine * tangent);
                let [x, y] = two_rows(&mut done, rows, first, second);
                rotate(x, y, cosine, cosine * tangent);
            }
        }
        if is_orthogonal {
            break;
        }
    }
    let lengths: Vec<f64> = turned.chunks_exact(columns).map(|row| dot(row, row).sqrt()).collect();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]));
    order.truncate(count);
    let mut found = Leading { left: Vec::new(), values: Vec::new(), right: Vec::new() };
    for row in order {
        found.left.extend_from_slice(&done[row * rows..][..rows]);
        found.values.push(lengths[row]);
        let scale = lengths[row].max(f64::MIN_POSITIVE);
        found.right.extend(turned[row * columns..][..columns].iter().map(|x| x / scale));
    }
    found
}

fn two_rows(numbers: &mut [f64], width: usize, first: usize, second: usize) -> [&mut [f64]; 2] {
    let (before, rest) = numbers.split_at_mut(second * width);
    [&mut before[first * width..][..width], &mut rest[..width]]
}

fn rotate(x: &mut [f64], y: &mut [f64], cosine: f64, sine: f64) {
    for (x, y) in x.iter_mut().zip(y) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with the singular values 1, 1/2, 1/3, … in random directions.
    fn matrix(rows: usize, columns: usize) -> Vec<f64> {
        let size = rows.min(columns);
        let random =
            |seed, count| -> Vec<f64> { (0..count).map(|i| f64::from(normal(seed, i as u64))).collect() };
        let (mut left, mut right) = (random(1, size * rows), random(2, size * columns));
        orthonormalise(&mut left, rows);
        orthonormalise(&mut right, columns);
        let mut out = vec![0.0; rows * columns];
        for value in 0..size {
            for row in 0..rows {
                let factor = left[value * rows + row] / (value + 1) as f64;
                (0..columns).for_each(|c| out[row * columns + c] += factor * right[value * columns + c]);
            }
        }
        out
    }

    #[test]
    fn known_values_come_out_of_either_method() {
        for (rows, columns, allowed) in [(12, 30, 1e-12), (30, 12, 1e-12), (200, 300, 1e-5), (300, 150, 1e-5)]
        {
            let numbers = matrix(rows, columns);
            let found = leading(SvdMatrix { numbers: &numbers, rows, columns }, 4);
            for (place, value) in found.values.iter().enumerate() {
                assert!((value - 1.0 / (place + 1) as f64).abs() < allowed, "{rows} {columns}: {value}");
                let (left, right) =
                    (&found.left[place * rows..][..rows], &found.right[place * columns..][..columns]);
                assert!((dot(left, left) - 1.0).abs() < 1e-9 && (dot(right, right) - 1.0).abs() < 1e-9);
                // W·v = σ·u.
                for (row, numbers) in numbers.chunks_exact(columns).enumerate() {
                    assert!(
                        (dot(numbers, right) - value * left[row]).abs() < 10.0 * allowed.sqrt().min(1e-3)
                    );
                }
            }
        }
    }
}
