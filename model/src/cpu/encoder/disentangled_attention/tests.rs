use super::*;

const HEADS: usize = 3;
const WIDTH: usize = 8;
const HIDDEN: usize = HEADS * WIDTH;
/// Distances on either side that have a row of their own.
const SPAN: i64 = 5;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5) * 2.0).collect()
}

fn bucket(distance: i64) -> u32 {
    (distance + SPAN).clamp(0, 2 * SPAN - 1) as u32
}

/// The definition, in f64, of one sequence and one query.
fn by_definition(attention: &DisentangledAttention<'_>, rows: Range<usize>, query: usize) -> Vec<f64> {
    let at = |row: usize, part: usize, column: usize| {
        f64::from(attention.projected[(rows.start + row) * 3 * HIDDEN + part * HIDDEN + column])
    };
    let mut out = Vec::new();
    for head in 0..HEADS {
        let columns = head * WIDTH..(head + 1) * WIDTH;
        let score = |j: usize| -> f64 {
            let row = bucket(query as i64 - j as i64) as usize * HIDDEN;
            let terms = columns.clone().map(|c| {
                let pk = f64::from(attention.position_key[row + c]);
                let pq = f64::from(attention.position_query[row + c]);
                at(query, 0, c) * (at(j, 1, c) + pk) + at(j, 1, c) * pq
            });
            (terms.sum::<f64>() / (3.0 * WIDTH as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = (0..rows.len()).map(score).collect();
        let total: f64 = weights.iter().sum();
        for c in columns.clone() {
            out.push(weights.iter().enumerate().map(|(j, w)| w / total * at(j, 2, c)).sum());
        }
    }
    out
}

#[test]
fn it_is_the_definition_whatever_else_is_in_the_call() {
    // One is longer than a block of queries, one is a single token, and buckets are for a longer one still.
    let lengths = [7, 1, BLOCK + 14];
    let total: usize = lengths.iter().sum();
    let longest = BLOCK as i64 + 40;
    let projected = numbers(total * 3 * HIDDEN, 1);
    let (position_key, position_query) =
        (numbers(2 * SPAN as usize * HIDDEN, 2), numbers(2 * SPAN as usize * HIDDEN, 3));
    let buckets: Vec<u32> = (1 - longest..longest).map(bucket).collect();
    let attention = DisentangledAttention {
        projected: &projected,
        position_key: &position_key,
        position_query: &position_query,
        heads: HEADS,
        hidden: HIDDEN,
        buckets: &buckets,
    };
    let all: Vec<Vec<usize>> = vec![vec![6, 0, 3], vec![0], (0..lengths[2]).collect()];
    let mut first = 0;
    let spans: Vec<QuerySpan<'_>> = lengths
        .iter()
        .zip(&all)
        .map(|(length, queries)| {
            let rows = first..first + length;
            first += length;
            QuerySpan { rows, queries }
        })
        .collect();
    let found = attention.attend(&spans);
    let mut rows = found.chunks(HIDDEN);
    for span in &spans {
        let alone = attention.attend(&[QuerySpan { rows: span.rows.clone(), queries: span.queries }]);
        for (&query, alone) in span.queries.iter().zip(alone.chunks(HIDDEN)) {
            let row = rows.next().unwrap();
            assert_eq!(row, alone, "the bits of a sequence are its own");
            for (x, want) in row.iter().zip(by_definition(&attention, span.rows.clone(), query)) {
                assert!((f64::from(*x) - want).abs() < 2e-6, "{x} {want}");
            }
        }
    }
    assert!(rows.next().is_none());
}
