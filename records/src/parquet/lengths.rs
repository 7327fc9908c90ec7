//! How many rows a file has, and how long the lists in them are, without their values: of the column's levels alone.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::file::metadata::ParquetMetaData;

use super::leaf::{Damaged, Leaf};
use super::node::{self, ItemLevels, NodeKind};
use super::read::{DAMAGED, checked_pages, guarded, metadata};
use crate::RecordError;

/// Rows whose levels are decoded at a time.
const BATCH_ROWS: usize = 1024;

/// Of each row the lengths of one list in each of its objects; `None` where an object has no such list.
pub type ListLengths = Vec<Vec<Option<usize>>>;

/// How many rows a file has.
///
/// # Errors
/// A file that is damaged or no Parquet.
pub(crate) fn row_count(path: &Path, mut file: File) -> Result<usize, RecordError> {
    let rows = metadata(path, &mut file)?.file_metadata().num_rows();
    let wrong = |_| RecordError::Parquet { path: path.to_path_buf(), problem: DAMAGED.to_owned() };
    usize::try_from(rows).map_err(wrong)
}

/// The lengths of the lists `inner` in the objects of the list `outer`, row by row; `None` where the file has no such column.
///
/// # Errors
/// A file that is damaged or no Parquet.
pub(crate) fn list_lengths(
    path: &Path,
    mut file: File,
    outer: &str,
    inner: &str,
) -> Result<Option<ListLengths>, RecordError> {
    let wrong = |problem: String| RecordError::Parquet { path: path.to_path_buf(), problem };
    let metadata = metadata(path, &mut file)?;
    let Some(column) = guarded(|| LengthColumn::find(&metadata, outer, inner)).map_err(wrong)? else {
        return Ok(None);
    };
    let at = |problem: String| wrong(format!("column \"{outer}.{inner}\": {problem}"));
    let file = Arc::new(file);
    guarded(|| column.read(&file, &metadata)).map(Some).map_err(at)
}

/// The column whose levels tell the lengths.
struct LengthColumn {
    /// Its place among the file's.
    leaf: usize,
    /// The objects.
    objects: ItemLevels,
    /// The level from which on an object has the list.
    present: i16,
    /// The list's items.
    items: ItemLevels,
}

impl LengthColumn {
    fn find(metadata: &ParquetMetaData, outer: &str, inner: &str) -> Result<Option<Self>, String> {
        let schema = metadata.file_metadata().schema_descr();
        let roots = schema.root_schema().get_fields();
        let Some(root) = roots.iter().position(|root| root.name() == outer) else { return Ok(None) };
        let first = (0..schema.num_columns()).find(|&leaf| schema.get_column_root_idx(leaf) == root);
        let (Some(first), Some(list)) = (first, node::of_root(&roots[root], 0)?) else { return Ok(None) };
        let NodeKind::List(objects, object) = list.kind else { return Ok(None) };
        let NodeKind::Object(fields) = object.kind else { return Ok(None) };
        let Some((_, field)) = fields.into_iter().find(|(name, _)| name == inner) else { return Ok(None) };
        let (NodeKind::List(items, item), leaf) = (field.kind, first + field.leaves.start) else {
            return Ok(None);
        };
        let is_flat = matches!(item.kind, NodeKind::Scalar(_));
        Ok(is_flat.then_some(Self { leaf, objects, present: field.present, items }))
    }

    fn read(&self, file: &Arc<File>, metadata: &ParquetMetaData) -> Result<ListLengths, String> {
        let damaged = |Damaged| DAMAGED.to_owned();
        let column = metadata.file_metadata().schema_descr().column(self.leaf);
        let mut lengths = Vec::new();
        for group in metadata.row_groups() {
            checked_pages(file, group, self.leaf, true)?;
            let mut leaf = Leaf::open(file, group, self.leaf, &column)?;
            let mut left = usize::try_from(group.num_rows()).map_err(|_| DAMAGED.to_owned())?;
            while left > 0 {
                let rows = left.min(BATCH_ROWS);
                left -= rows;
                leaf.fill(rows)?;
                for _ in 0..rows {
                    lengths.push(self.row(&mut leaf).map_err(damaged)?);
                }
            }
        }
        Ok(lengths)
    }

    /// The lengths of the next row.
    fn row(&self, leaf: &mut Leaf) -> Result<Vec<Option<usize>>, Damaged> {
        let mut lengths = Vec::new();
        loop {
            let definition = leaf.definition()?;
            let has_object = definition >= self.objects.present;
            let length = if definition >= self.items.present {
                let mut length = 0;
                loop {
                    leaf.pass()?;
                    length += 1;
                    if !leaf.goes_on(self.items.again) {
                        break;
                    }
                }
                Some(length)
            } else {
                leaf.pass()?;
                (definition >= self.present).then_some(0)
            };
            if has_object {
                lengths.push(length);
            }
            if !leaf.goes_on(self.objects.again) {
                break;
            }
        }
        leaf.end_row(false)?;
        Ok(lengths)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Candidates, Prompt, Response, count_rows, read_list_lengths, read_rows, read_rows_at, write_rows,
    };

    fn rows() -> Vec<Candidates> {
        let response = |ids: Option<Vec<u32>>| Response { text: "x".into(), ids, ..Response::default() };
        let row = |id: usize, responses: Vec<Response>| Candidates {
            prompt: Prompt { prompt_id: id.to_string(), prompt: Some("?".into()), ..Prompt::default() },
            responses,
        };
        let mut rows = vec![
            row(0, vec![response(Some(vec![5, 6, 7])), response(None), response(Some(Vec::new()))]),
            row(1, Vec::new()),
            row(2, vec![response(Some(vec![9]))]),
        ];
        // More than one batch.
        rows.extend((3..2500).map(|id| row(id, vec![response(Some(vec![1; id % 7])); 1 + id % 3])));
        rows
    }

    #[test]
    fn lengths_are_those_of_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        let rows = rows();
        write_rows(&path, &rows).unwrap();
        let wanted: Vec<Vec<Option<usize>>> = rows
            .iter()
            .map(|row| row.responses.iter().map(|one| one.ids.as_ref().map(Vec::len)).collect())
            .collect();
        assert_eq!(wanted[0], [Some(3), None, Some(0)]);
        assert_eq!(read_list_lengths(&path, "responses", "ids").unwrap().unwrap(), wanted);
        for (outer, inner) in
            [("responses", "text"), ("responses", "absent"), ("prompt_id", "ids"), ("absent", "ids")]
        {
            assert_eq!(read_list_lengths(&path, outer, inner).unwrap(), None, "{outer}.{inner}");
        }
        assert_eq!(count_rows(&path).unwrap(), rows.len());
    }

    #[test]
    fn rows_at_places_are_those_of_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows();
        for name in ["rows.parquet", "rows.jsonl", "rows.json", "rows.jsonl.gz"] {
            let path = folder.path().join(name);
            write_rows(&path, &rows).unwrap();
            let whole: Vec<Candidates> = read_rows(&path).unwrap();
            let some: Vec<Candidates> = read_rows_at(&path, &[1300, 0, 2, 1299, 9999, 2]).unwrap();
            let wanted = [0, 2, 1299, 1300].map(|place| whole[place].clone());
            assert_eq!(some, wanted, "{name}");
            assert!(read_rows_at::<Candidates>(&path, &[]).unwrap().is_empty());
            assert_eq!(count_rows(&path).unwrap(), rows.len(), "{name}");
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write_rows(&path, &rows()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        crate::atomic::write_bytes(&path, &bytes).unwrap();
        for error in [
            read_list_lengths(&path, "responses", "ids").unwrap_err(),
            count_rows(&path).unwrap_err(),
            read_rows_at::<Candidates>(&path, &[3]).unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("rows.parquet") && error.to_string().contains("damaged"),
                "{error}"
            );
        }
    }
}
