use std::path::{Path, PathBuf};

use selfplay_records::atomic;
use serde_json::{Value, json};

use super::length_control::FOLDS;
use super::logistic::{self, Observation};
use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        path
    }

    fn annotations(&self, rows: &[Value]) -> Annotations {
        Annotations::read(&self.write("annotations.json", &Value::from(rows).to_string())).unwrap()
    }
}

fn row(preference: impl Into<Value>, baseline: usize, model: usize) -> Value {
    let preference: Value = preference.into();
    json!({
        "output_1": "é".repeat(baseline), "output_2": "é".repeat(model),
        "generator_1": "base", "generator_2": "new", "preference": preference,
    })
}

/// Rows whose judge prefers longer answers, whoever wrote them.
fn length_lovers(count: usize) -> Vec<Value> {
    let rows = (0..count).map(|number| {
        let (baseline, model) = (100 + (number * 37) % 90, 150 + (number * 53) % 130);
        let difference = (model as f64 - baseline as f64) / 60.0;
        row(1.0 + logistic::sigmoid(1.5 * difference.tanh()), baseline, model)
    });
    rows.collect()
}

#[test]
fn a_raw_rate_counts_draws_as_halves_and_leaves_out_what_has_no_verdict() {
    let folder = Folder::new();
    let rows = [row(2, 3, 5), row(1, 3, 4), row(0, 3, 6), row(Value::Null, 3, 1), row(1.25, 3, 4)];
    let found = win_rate(&folder.annotations(&rows), None).unwrap();
    assert_eq!((found.n, found.n_wins, found.n_wins_base, found.n_draws), (4, 1, 2, 1));
    assert!((found.win_rate - 100.0 * (1.0 + 0.0 + 0.5 + 0.25) / 4.0).abs() < 1e-12);
    // The spread of 1, 0, ½, ¼ with n − 1.
    let variance = (0.5625f64.powi(2) + 0.4375f64.powi(2) + 0.0625f64.powi(2) + 0.1875f64.powi(2)) / 3.0;
    assert!((found.standard_error - 100.0 * (variance / 4.0).sqrt()).abs() < 1e-12);
    assert_eq!(found.discrete_win_rate, 37.5);
    assert_eq!(found.length, 4.0, "mean characters of all five rows, not bytes");
    assert_eq!(found.lc_win_rate, None, "four rows for five folds");
}

#[test]
fn a_judge_of_length_alone_leaves_nothing_at_equal_length() {
    let folder = Folder::new();
    let found = win_rate(&folder.annotations(&length_lovers(200)), None).unwrap();
    assert_eq!(found.variant, Variant::Minimal);
    assert!(found.win_rate > 65.0, "{found:?}");
    let controlled = found.lc_win_rate.unwrap();
    assert!((controlled - 50.0).abs() < 2.0, "{found:?}");
    assert!(found.lc_standard_error.unwrap() < 1e-12, "one rate for all rows");
    let weights = found.weights.unwrap();
    assert_eq!(weights.len(), 2);
    assert!(weights[0] < -1.0, "longer answers of the model win: {weights:?}");
}

#[test]
fn judgements_in_memory_have_the_rate_of_their_file() {
    let folder = Folder::new();
    let rows = length_lovers(60);
    let file = win_rate(&folder.annotations(&rows), None).unwrap();
    let preferences: Vec<f64> = rows.iter().map(|row| row["preference"].as_f64().unwrap() - 1.0).collect();
    let characters = |row: &Value, name: &str| row[name].as_str().unwrap().chars().count();
    let lengths: Vec<(usize, usize)> =
        rows.iter().map(|row| (characters(row, "output_1"), characters(row, "output_2"))).collect();
    let found = length_controlled(&preferences, &lengths).unwrap();
    assert!((100.0 * found - file.lc_win_rate.unwrap()).abs() < 1e-9);
    assert!((100.0 * share_error(&preferences).unwrap() - file.standard_error).abs() < 1e-9);
    assert_eq!((length_controlled(&preferences[..4], &lengths[..4]), share_error(&[])), (None, None));
}

#[test]
fn a_model_against_itself_is_at_fifty() {
    let folder = Folder::new();
    let mut rows = length_lovers(12);
    for row in &mut rows {
        row["generator_2"] = json!("base");
    }
    let found = win_rate(&folder.annotations(&rows), None).unwrap();
    assert_eq!(found.lc_win_rate, Some(50.0));
    assert_eq!(found.weights, Some(vec![0.0, 0.0]));
    assert_eq!(found.inverse_penalty, None);
}

#[test]
fn published_tables_add_the_difficulty_and_their_own_rows() {
    let folder = Folder::new();
    let rows = length_lovers(40);
    let annotations = folder.annotations(&rows);
    // Shuffled: a difficulty is found by its number.
    let numbers = (0..40).rev().map(|number| format!("{number},{}\n", f64::from(number % 5) - 2.0));
    let difficulty =
        folder.write("d.csv", &format!(",instruction_difficulty\n{}", numbers.collect::<String>()));
    let gamed = (0..40).map(|number| format!("verbose,{number},0.{}5,-1.2,0.5,False\n", 5 + number % 4));
    let head = "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n";
    let gamed = folder.write("g.csv", &format!("{head}{}", gamed.collect::<String>()));
    let tables = LengthTables::read(&difficulty, &gamed).unwrap();
    let found = win_rate(&annotations, Some(&tables)).unwrap();
    assert_eq!(found.variant, Variant::LengthControlledV1);
    assert_eq!(found.weights.as_ref().unwrap().len(), 3);
    assert!(found.lc_standard_error.unwrap() > 0.0);

    let short = folder.write("short.csv", ",instruction_difficulty\n0,0.5\n1,0.5\n");
    let tables = LengthTables::read(&short, &gamed).unwrap();
    assert_eq!(win_rate(&annotations, Some(&tables)), Err(MissingDifficulty { number: 2 }));
}

#[test]
fn a_fit_is_where_no_direction_goes_down() {
    let observations: Vec<Observation> = (0..60)
        .map(|number| {
            let x = f64::from(number % 7) / 3.0 - 1.0;
            let y = f64::from(number % 5) - 2.0;
            let target = logistic::sigmoid(0.8 * x - 0.3 * y + f64::from(number % 3) - 1.0);
            Observation { features: vec![x, y, 1.0], target, weight: 1.0 + f64::from(number % 2) }
        })
        .collect();
    let rows: Vec<&Observation> = observations.iter().collect();
    for inverse_penalty in [1e-4, 0.02, 0.3, 10.0, 1e4] {
        let objective = |w: &[f64]| {
            let loss = |row: &&Observation| {
                row.weight * logistic::cross_entropy(logistic::logit(&row.features, w), row.target)
            };
            w.iter().map(|w| w.abs()).sum::<f64>() + inverse_penalty * rows.iter().map(loss).sum::<f64>()
        };
        let best = logistic::fit(&rows, inverse_penalty);
        let least = objective(&best);
        for direction in 0..26 {
            let step = |place: u32| 1e-4 * (f64::from(direction / 3_u32.pow(place) % 3) - 1.0);
            let moved: Vec<f64> = (0..3).zip(&best).map(|(place, w)| w + step(place)).collect();
            assert!(objective(&moved) >= least - 1e-12 * least, "{inverse_penalty}: {best:?} {moved:?}");
        }
        if inverse_penalty == 1e-4 {
            assert_eq!(best, [0.0; 3], "a strong penalty leaves exact zeros");
        }
    }
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_row() {
    let folder = Folder::new();
    let refused = |rows: Vec<Value>| {
        let path = folder.write("wrong.json", &Value::from(rows).to_string());
        Annotations::read(&path).unwrap_err().to_string()
    };
    let mut other = row(1, 2, 2);
    other["generator_2"] = json!("third");
    let mut without = row(1, 2, 2);
    without.as_object_mut().unwrap().remove("output_2");
    for (rows, wanted) in [
        (vec![row(1, 2, 2), row(2.5, 2, 2)], "row 1: field \"preference\": expected a number from 1 to 2"),
        (vec![row("2", 2, 2)], "row 0: field \"preference\""),
        (vec![row(1, 2, 2), other], "row 1: field \"generator_2\": expected \"new\" as in the first row"),
        (vec![row(1, 2, 2), without], "row 1: field \"output_2\""),
        (vec![row(Value::Null, 2, 2)], "null in all"),
    ] {
        let message = refused(rows);
        assert!(message.contains(wanted), "{message}");
    }
    let gamed = folder.write("gamed.csv", "preference,std_delta_len,instruction_difficulty\n0.5,1,2\n");
    for (difficulty, wanted) in [
        (",other\n0,1\n", "a column of that name"),
        (",instruction_difficulty\n", "no rows"),
        (
            ",instruction_difficulty\n0,nan\n",
            "row 0: field \"instruction_difficulty\": expected a finite number",
        ),
        (
            ",instruction_difficulty\n0,1\n0,2\n",
            "row 1: field \"the first column\": expected each instruction once",
        ),
        (",instruction_difficulty\nzero,1\n", "an instruction's number"),
        (",instruction_difficulty\n0,1,2\n", "cannot be read"),
    ] {
        let path = folder.write("difficulty.csv", difficulty);
        let message = LengthTables::read(&path, &gamed).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
    assert!(LengthTables::read(Path::new("nowhere.csv"), &gamed).is_err());
    const { assert!(FEWEST_ROWS == FOLDS) };
}
