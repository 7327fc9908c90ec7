//! Which files of a data set are one split.
//!
//! ```text
//! data/train-00000-of-00002.parquet      a file whose name begins with the split, in numbered shards or not
//! train/0000.parquet                     any file in a folder of the split's name
//! main/train-…, socratic/train-…         two configurations: one of them is to be named, as main/train
//! ```
//!
//! Shards whose names have their total number must all be there. Files that differ in more than their shard's number are not
//! one split: another format of the same rows, another language, another version.

use std::collections::BTreeMap;

use super::HubError;

/// Where no split is named.
const DEFAULT: &str = "train";

/// Endings of files whose rows can be read.
const ENDINGS: [&str; 7] = [".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".tsv", ".csv"];

/// Those of tables, which are looked at where they are named or there is nothing else.
const TABLES: [&str; 2] = [".tsv", ".csv"];

/// The names of a split's files, in order.
///
/// `split` is the part after the colon of `hf://datasets/ORG/NAME:SPLIT`: a split, `CONFIGURATION/SPLIT`, a file's
/// name, or names with `*`. `address` is what stands before the colon.
///
/// # Errors
/// No file is of the split, a shard is missing, or several splits are of this name.
pub(super) fn files(address: &str, names: &[String], split: Option<&str>) -> Result<Vec<String>, HubError> {
    let all: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_rows(name)).collect();
    let is_table = |name: &str| ending(name).is_some_and(|ending| TABLES.contains(&ending));
    let only_tables = all.iter().all(|name| is_table(name));
    let rows: Vec<&str> = all.iter().copied().filter(|name| only_tables || !is_table(name)).collect();
    let wanted = split.unwrap_or(DEFAULT);
    let mut sets: BTreeMap<Series, Vec<(&str, Option<ShardNumber>)>> = BTreeMap::new();
    let named: Vec<&str> = all.iter().copied().filter(|name| matches(wanted, name)).collect();
    if named.is_empty() {
        for name in &rows {
            if let Some((series, shard)) = member(name, wanted) {
                sets.entry(series).or_default().push((name, shard));
            }
        }
        if let ([only], true) = (rows.as_slice(), sets.is_empty() && wanted == DEFAULT) {
            return Ok(vec![(*only).to_owned()]);
        }
    } else {
        for name in named {
            // Files that are named are taken together, whatever their folders; their shards must be whole.
            let (pattern, shard) = shard_of(name.rsplit('/').next().unwrap_or(name));
            let folder = name.strip_suffix(name.rsplit('/').next().unwrap_or(name)).unwrap_or_default();
            let series = Series { folder: folder.to_owned(), pattern, total: shard.map(|shard| shard.total) };
            sets.entry(series).or_default().push((name, shard));
        }
        for set in sets.values() {
            check_whole(address, set)?;
        }
        let mut chosen: Vec<String> = sets.into_values().flatten().map(|(name, _)| name.to_owned()).collect();
        chosen.sort();
        return Ok(chosen);
    }
    match sets.len() {
        0 => Err(HubError::Lacks {
            what: address.to_owned(),
            wanted: format!(
                "file of rows (Parquet, JSON, TSV, CSV) of the split {wanted:?}; name another with :split"
            ),
        }),
        1 => {
            let set = sets.into_values().next().unwrap_or_default();
            check_whole(address, &set)?;
            let mut chosen: Vec<String> = set.into_iter().map(|(name, _)| name.to_owned()).collect();
            chosen.sort();
            Ok(chosen)
        }
        _ => Err(ambiguous(address, wanted, &sets)),
    }
}

/// Files that are shards of one set: they differ in nothing but the shard's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    /// The folder that holds the split: a configuration. Empty at the top, else with a slash at its end.
    folder: String,
    /// The rest of the name, with `*` for the shard's number.
    pattern: String,
    /// The number of shards, where the names have it.
    total: Option<u64>,
}

/// `00001-of-00005`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ShardNumber {
    index: u64,
    total: u64,
}

/// The series that a file belongs to where it is of the split.
fn member(name: &str, wanted: &str) -> Option<(Series, Option<ShardNumber>)> {
    let (configuration, split) = match wanted.rsplit_once('/') {
        Some((configuration, split)) => (Some(configuration), split),
        None => (None, wanted),
    };
    let parts: Vec<&str> = name.split('/').collect();
    let (file, folders) = parts.split_last()?;
    let (depth, pattern, shard) = match folders.iter().position(|folder| *folder == split) {
        Some(depth) => {
            // All of one format in the split's own folder is the split, unless its shards' names show otherwise.
            let (pattern, shard) = shard_of(file);
            let pattern = if shard.is_some() { pattern } else { format!("*{}", ending(file)?) };
            (depth, format!("{split}/{pattern}"), shard)
        }
        None => {
            let rest = file.strip_prefix(split)?;
            if !rest.starts_with(['-', '.']) {
                return None;
            }
            let (pattern, shard) = shard_of(file);
            (folders.len(), pattern, shard)
        }
    };
    let folder: String = folders[..depth].iter().map(|folder| format!("{folder}/")).collect();
    let of_configuration = configuration.is_none_or(|configuration| {
        let configuration = format!("{configuration}/");
        folder == configuration || folder.ends_with(&format!("/{configuration}"))
    });
    of_configuration.then(|| (Series { folder, pattern, total: shard.map(|shard| shard.total) }, shard))
}

/// A file's name with `*` for its shard's number, and the shard, where the name has the total number.
fn shard_of(file: &str) -> (String, Option<ShardNumber>) {
    let Some(ending) = ending(file) else { return (file.to_owned(), None) };
    let stem = &file[..file.len() - ending.len()];
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let mut parts: Vec<&str> = stem.split('-').collect();
    if let Some(of) = parts.iter().rposition(|part| *part == "of").filter(|of| *of >= 1) {
        let index = number(parts[of - 1]).filter(|_| !parts[of - 1].is_empty());
        let total = parts.get(of + 1).and_then(|part| number(part)).filter(|total| *total > 0);
        if let (Some(index), Some(total)) = (index, total) {
            // A hash may follow, another one for each shard.
            parts.truncate(of - 1);
            let start: String = parts.iter().map(|part| format!("{part}-")).collect();
            return (format!("{start}*{ending}"), Some(ShardNumber { index, total }));
        }
    }
    match stem.rsplit_once('-') {
        Some((start, digits)) if !digits.is_empty() && number(digits).is_some() => {
            (format!("{start}-*{ending}"), None)
        }
        _ => (file.to_owned(), None),
    }
}

/// That all shards are there, each once.
fn check_whole(address: &str, set: &[(&str, Option<ShardNumber>)]) -> Result<(), HubError> {
    let mut shards: Vec<(u64, u64, &str)> =
        set.iter().filter_map(|(name, shard)| shard.map(|shard| (shard.index, shard.total, *name))).collect();
    shards.sort_unstable();
    let Some(&(first, total, example)) = shards.first() else { return Ok(()) };
    if let Some(pair) = shards.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(HubError::Ambiguous {
            what: address.to_owned(),
            problem: format!("shard {} of {total} is there more than once", pair[0].0),
            choices: pair.iter().map(|(_, _, name)| format!("{address}:{name}")).collect(),
        });
    }
    // Some count from one.
    let one_based = first == 1 && shards.last().is_some_and(|last| last.0 == total);
    let start = u64::from(one_based);
    let present = shards.iter().zip(start..).take_while(|(shard, index)| shard.0 == *index).count();
    if present as u64 == total && present == shards.len() {
        return Ok(());
    }
    Err(HubError::MissingShard {
        what: address.to_owned(),
        missing: renumbered(example, start + present as u64),
        present: shards.len(),
        total,
    })
}

/// A shard's name with another number.
fn renumbered(name: &str, index: u64) -> String {
    let Some(of) = name.rfind("-of-") else { return name.to_owned() };
    let start = name[..of].rfind('-').map_or(0, |dash| dash + 1);
    let start = start.max(name[..of].rfind('/').map_or(0, |slash| slash + 1));
    let width = of - start;
    // A hash after the total is each shard's own.
    let total: String = name[of + 4..].chars().take_while(char::is_ascii_digit).collect();
    let rest = &name[of + 4 + total.len()..];
    let rest =
        if rest.starts_with('-') { format!("-*{}", ending(rest).unwrap_or("")) } else { rest.to_owned() };
    format!("{}{index:0width$}-of-{total}{rest}", &name[..start])
}

fn ambiguous(
    address: &str,
    wanted: &str,
    sets: &BTreeMap<Series, Vec<(&str, Option<ShardNumber>)>>,
) -> HubError {
    let split = wanted.rsplit('/').next().unwrap_or(wanted);
    let mut folders: Vec<&str> = sets.keys().map(|series| series.folder.as_str()).collect();
    folders.dedup();
    let by_folder = folders.len() == sets.len() && !folders.contains(&"");
    let (problem, choices): (String, Vec<String>) = if by_folder {
        let shown: Vec<&str> = folders.iter().map(|folder| folder.trim_end_matches('/')).collect();
        (
            format!("has the split {split:?} in {} configurations ({})", sets.len(), shown.join(", ")),
            folders.iter().map(|folder| format!("{address}:{folder}{split}")).collect(),
        )
    } else {
        let shown: Vec<String> = sets.keys().map(Series::shown).collect();
        (
            format!(
                "has {} sets of files that may be the split {split:?} ({})",
                sets.len(),
                shown.join(", ")
            ),
            shown.iter().map(|series| format!("{address}:{series}")).collect(),
        )
    };
    HubError::Ambiguous { what: address.to_owned(), problem, choices: first_few(choices) }
}

/// The choices for a message, at most eight.
fn first_few(mut choices: Vec<String>) -> Vec<String> {
    choices.truncate(8);
    choices
}

impl Series {
    /// As a pattern of names.
    fn shown(&self) -> String {
        match self.total {
            Some(total) => {
                let pattern = self.pattern.replacen('*', &format!("*-of-{total:05}*"), 1);
                format!("{}{pattern}", self.folder)
            }
            None => format!("{}{}", self.folder, self.pattern),
        }
    }
}

/// Whether rows can be read from a file of this name.
fn is_rows(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    !matches!(file, "dataset_infos.json" | "dataset_info.json" | "state.json") && ending(file).is_some()
}

fn ending(file: &str) -> Option<&'static str> {
    ENDINGS.into_iter().find(|ending| file.ends_with(ending))
}

/// Whether a pattern, in which `*` stands for any text, is a file's whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests;
