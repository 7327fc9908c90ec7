//! Numbers in columns.

/// Right-aligned columns but for the first, two spaces between.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let padding = " ".repeat(width - cell.chars().count());
            if column == 0 { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A share as a percentage; a dash where it is unknown.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} %", 100.0 * value))
}

/// A number with fixed decimals; a dash where it is unknown.
pub(super) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// A small or large number; a dash where it is unknown.
pub(super) fn scientific(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1e}"))
}

/// A loss: plain where that is readable.
pub(super) fn loss(value: Option<f64>) -> String {
    match value {
        Some(value) if value != 0.0 && (value.abs() >= 1e5 || value.abs() < 1e-3) => format!("{value:.3e}"),
        other => number(other, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_unknowns_are_dashes() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let text = columns(&[row(&["a", "long"]), row(&["bcd", "é"])]);
        assert_eq!(text, "a    long\nbcd     é\n");
        assert_eq!((percent(None), percent(Some(0.523))), ("-".to_owned(), "52.3 %".to_owned()));
        assert_eq!((loss(Some(250_000.0)), loss(Some(0.69))), ("2.500e5".to_owned(), "0.6900".to_owned()));
    }
}
