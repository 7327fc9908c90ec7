//! Which files a split is made of.

use selfplay_records::{HasKind, Kind};

use super::*;

const ADDRESS: &str = "hf://datasets/me/d";

fn chosen(names: &[&str], split: Option<&str>) -> Result<Vec<String>, HubError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    files(ADDRESS, &names, split)
}

#[track_caller]
fn refused(names: &[&str], split: Option<&str>, words: &[&str]) {
    let error = chosen(names, split).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn a_split_s_files_are_told_by_name() {
    let names = [
        "README.md",
        "data/train-00001-of-00002.parquet",
        "data/train-00000-of-00002.parquet",
        "data/train_prefs-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
        "dataset_infos.json",
    ];
    assert_eq!(chosen(&names, None).unwrap(), [names[2], names[1]]);
    assert_eq!(chosen(&names, Some("test")).unwrap(), [names[4]]);
    assert_eq!(chosen(&names, Some("train_prefs")).unwrap(), [names[3]]);
    assert_eq!(chosen(&["default/train/0000.parquet"], None).unwrap(), ["default/train/0000.parquet"]);
    assert_eq!(chosen(&["a.json.gz", "x.txt"], None).unwrap(), ["a.json.gz"]);
    refused(&["a.json.gz"], Some("test"), &["no file of rows (Parquet, JSON, TSV, CSV)", "\"test\""]);
    refused(&["README.md"], None, &[ADDRESS, "\"train\""]);
}

#[test]
fn numbered_files_without_a_total_are_one_split() {
    let names = ["train-00000.jsonl", "train-00001.jsonl"];
    assert_eq!(chosen(&names, None).unwrap(), names);
    let names = ["train/part-00000-ab12-c000.snappy.parquet", "train/part-00001-ab12-c000.snappy.parquet"];
    assert_eq!(chosen(&names, None).unwrap(), names);
}

#[test]
fn two_configurations_are_asked_about() {
    let names = ["main/train-00000-of-00001.jsonl", "socratic/train-00000-of-00001.jsonl"];
    refused(
        &names,
        None,
        &["main, socratic", "hf://datasets/me/d:main/train", "hf://datasets/me/d:socratic/train"],
    );
    assert_eq!(chosen(&names, Some("socratic/train")).unwrap(), [names[1]]);
    let folders = ["en/train/0000.parquet", "de/train/0000.parquet"];
    refused(&folders, None, &["2 configurations", ":de/train", ":en/train"]);
    assert_eq!(chosen(&folders, Some("de/train")).unwrap(), [folders[1]]);
    refused(&["train.jsonl", "extra/train.jsonl"], None, &[":train.jsonl", ":extra/train.jsonl"]);
}

#[test]
fn one_split_twice_in_one_folder_is_asked_about() {
    let formats = ["train.jsonl", "train.parquet"];
    refused(&formats, None, &["hf://datasets/me/d:train.jsonl", "hf://datasets/me/d:train.parquet"]);
    assert_eq!(chosen(&formats, Some("train.parquet")).unwrap(), ["train.parquet"]);
    refused(&["train-v1.1.json", "train-v2.0.json"], None, &[":train-v1.1.json", ":train-v2.0.json"]);
    refused(&["train/a.jsonl", "train/a.parquet"], None, &["train/*.jsonl", "train/*.parquet"]);
    let totals =
        ["train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"];
    refused(&totals, None, &[":train-*-of-00001*.parquet", ":train-*-of-00002*.parquet"]);
    assert_eq!(chosen(&totals, Some("train-*-of-00002*.parquet")).unwrap(), totals[1..]);
    let hashes = ["data/train-00000-of-00001-aa.parquet", "data/train-00000-of-00001-bb.parquet"];
    refused(&hashes, None, &["more than once", hashes[0], hashes[1]]);
}

#[test]
fn tables_are_taken_where_they_are_named_or_alone() {
    assert_eq!(chosen(&["README.md", "zhihu_3k_rlfh.tsv"], None).unwrap(), ["zhihu_3k_rlfh.tsv"]);
    let both = ["train.jsonl", "train.csv", "labels.csv"];
    assert_eq!(chosen(&both, None).unwrap(), ["train.jsonl"]);
    assert_eq!(chosen(&both, Some("labels.csv")).unwrap(), ["labels.csv"]);
    refused(&["a.csv", "b.csv"], None, &["TSV"]);
}

#[test]
fn a_missing_shard_is_named() {
    let of_five = |present: &[u64], split: Option<&str>| {
        let names: Vec<String> =
            present.iter().map(|n| format!("data/train-{n:05}-of-00005.parquet")).collect();
        files(ADDRESS, &names, split).map_err(|error| error.to_string())
    };
    assert_eq!(of_five(&[0, 1, 2, 3, 4], None).unwrap().len(), 5);
    // Some count from one.
    assert_eq!(of_five(&[1, 2, 3, 4, 5], None).unwrap().len(), 5);
    for (present, missing) in [(&[1, 2, 3, 4][..], 0), (&[0, 1, 3, 4], 2), (&[0, 1, 2, 3], 4), (&[3], 0)] {
        for split in [None, Some("data/train-*.parquet")] {
            let error = of_five(present, split).unwrap_err();
            assert!(
                error.contains(&format!("data/train-{missing:05}-of-00005.parquet is missing")),
                "{error}"
            );
            assert!(error.contains(&format!("{} of 5", present.len())), "{error}");
        }
    }
    // A hash is each shard's own; one that is not there cannot be known.
    let hashed = ["data/train-00000-of-00002-0a1b.parquet"];
    refused(&hashed, None, &["data/train-00001-of-00002-*.parquet is missing"]);
    let whole = [hashed[0], "data/train-00001-of-00002-77ff.parquet"];
    assert_eq!(chosen(&whole, None).unwrap(), whole);
    // A number as large as the text allows costs nothing.
    refused(&["train-00000-of-18446744073709551615.jsonl"], None, &["1 of 18446744073709551615"]);
}

proptest::proptest! {
    #[test]
    fn no_listing_makes_it_panic(
        names in proptest::collection::vec("(main/|é/|)(train|test)?[-./]?[0-9a-fé]{0,3}(-of-)?[0-9]{0,25}[-*]?(\\.jsonl|\\.parquet|\\.gz|)", 0..6),
        split in proptest::option::of("(main/)?(train|\\*|é)?"),
    ) {
        if let Ok(chosen) = files(ADDRESS, &names, split.as_deref()) {
            proptest::prop_assert!(!chosen.is_empty() && chosen.iter().all(|name| names.contains(name)));
        }
    }
}
